"""What a trace says about a run, on programs small enough to work out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.simulator import Program, recorded, run


def overlapped() -> Program:
    program = Program("overlap")
    first = program.add("gemm", kind="compute", duration=3.0)
    program.add("send", kind="communication", stream="comm", duration=5.0, latency=1.0)
    program.add("norm", kind="memory", after=first, duration=1.0)
    program.add("gemm", kind="compute", duration=0.5, bound="memory")
    program.add("other", kind="communication", rank=1, stream="comm", duration=1.0)
    return program


def test_by_hand() -> None:
    trace = run(overlapped())
    assert trace.makespan == 6.0
    assert trace.busy("compute") == 3.5
    assert trace.busy(("compute", "memory")) == 4.5
    assert trace.busy("communication") == 6.0
    assert trace.exposed() == 1.5
    assert trace.exposed(under="compute") == 2.5
    assert trace.exposed("memory") == 0.0
    assert trace.critical_path() == [1]
    assert trace.bound() == pytest.approx(
        {"compute": 0, "communication": 5 / 6, "memory": 0, "latency": 1 / 6, "idle": 0}
    )


def test_bound_follows_dependencies_streams_and_info() -> None:
    program = Program()
    a = program.add("a", kind="compute", duration=1.0, latency=0.5)
    program.add("b", kind="compute", duration=0.5)
    c = program.add("c", kind="communication", stream="comm", after=a, duration=2.0)
    program.add("d", kind="compute", after=c, duration=0.25, bound="memory")
    program.add("e", kind="sync", duration=0.25)
    trace = run(program)
    assert trace.critical_path() == [0, 2, 3, 4]
    expected = {"compute": 1.0, "communication": 2.0, "memory": 0.25, "latency": 0.75, "idle": 0.0}
    assert trace.bound() == pytest.approx({key: value / 4 for key, value in expected.items()})


@settings(max_examples=80)
@given(st.data())
def test_shares_sum_to_one_and_the_path_has_no_gap(programs, data) -> None:  # type: ignore[no-untyped-def]
    trace = run(data.draw(programs()))
    shares = trace.bound()
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)
    assert min(shares.values()) >= 0
    path = trace.critical_path()
    assert trace.start[path[0]] == 0.0
    assert trace.end[path[-1]] == trace.makespan
    np.testing.assert_array_equal(trace.start[path[1:]], trace.end[path[:-1]])


@settings(max_examples=80)
@given(st.data())
def test_exposed_counts_every_instant_once(programs, data) -> None:  # type: ignore[no-untyped-def]
    trace = run(data.draw(programs()))
    # Count on the finest grid there is: between any two neighbouring starts and ends.
    grid = np.unique(np.concatenate([trace.start, trace.end]))
    middle, width = (grid[1:] + grid[:-1]) / 2, np.diff(grid)
    expected = 0.0
    for rank in set(trace.ranks.tolist()):
        runs = {
            kind: ((trace.start[:, None] < middle) & (middle < trace.end[:, None]))[
                (trace.ranks == rank) & (trace.kinds == kind)
            ].any(axis=0)
            for kind in ("communication", "compute", "memory")
        }
        alone = runs["communication"] & ~runs["compute"] & ~runs["memory"]
        expected = max(expected, width[alone].sum())
    assert trace.exposed() == pytest.approx(expected, abs=1e-9)


def test_utilisation_by_hand() -> None:
    program = Program()
    link = program.resource("link", 10.0)
    program.resource("unused", 1.0)
    program.add("a", kind="communication", rank=0, demand={link: 10.0}, duration=2.0)
    program.add("b", kind="communication", rank=1, demand={link: 10.0}, latency=1.0)
    trace = run(program)
    with pytest.raises(ValueError, match="record=True"):
        trace.utilisation()
    again = recorded(trace)
    assert recorded(again) is again
    times, fraction = again.utilisation()["link"]
    # From 1 s the two want 1.5: each gets half, so 1 s more of each is 2 s of both.
    np.testing.assert_allclose(times, [0.0, 1.0, 2.0, 2.5], rtol=1e-12)
    np.testing.assert_allclose(fraction, [0.5, 1.0, 1.0, 0.0], rtol=1e-12)
    assert again.utilisation()["unused"][0].size == 0


def test_frame_has_a_row_per_task() -> None:
    frame = run(overlapped()).frame()
    assert list(frame["name"]) == ["gemm", "send", "norm", "gemm", "other"]
    assert frame.loc[1, "end_s"] == 6.0
    assert frame.loc[3, "bound"] == "memory"
    assert (frame["slowdown"] == 1.0).all()


def test_an_empty_run_says_so() -> None:
    trace = run(Program())
    assert trace.bound()["idle"] == 1.0
    assert trace.critical_path() == []
    assert trace.exposed() == trace.busy("compute") == 0.0
    assert len(trace.frame()) == 0
