"""Ring collectives: closed form, program and folded program agree, and move the bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.simulator import (
    Program,
    algorithm,
    all_gather_time,
    all_reduce_time,
    lower,
    reduce_scatter_time,
    run,
)

KINDS = {"all_reduce": all_reduce_time, "reduce_scatter": reduce_scatter_time, "all_gather": all_gather_time}
RING = algorithm("ring")
kinds = st.sampled_from(sorted(KINDS))
ranks = st.integers(1, 8)
sizes = st.one_of(st.integers(0, 10**9), st.floats(0, 1e9)).map(float)
rates = st.floats(1e6, 1e12)
times = st.floats(0, 1e-3)


def play(kind: str, n: int, size: float, rate: float, latency: float, base: float = 0.0) -> Program:
    program = Program(kind)
    links = [[program.resource(f"link{i}", rate)] for i in range(n)]
    done = lower(program, RING, kind, n, size, lambda s, t, c: (links[s], 0.0), latency=latency, base=base)
    assert len(done) == (n if n > 1 else 1)
    return program


@settings(max_examples=60)
@given(kinds, ranks, sizes, rates, times, times)
def test_program_takes_the_time_of_the_closed_form(kind, n, size, rate, latency, base) -> None:  # type: ignore[no-untyped-def]
    program = play(kind, n, size, rate, latency, base)
    expected = KINDS[kind](n, size, rate, latency, base)
    assert run(program).makespan == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert isinstance(expected, float)


@settings(max_examples=60)
@given(kinds, ranks, sizes, rates)
def test_bytes_in_are_bytes_out(kind, n, size, rate) -> None:  # type: ignore[no-untyped-def]
    program = play(kind, n, size, rate, 0.0)
    (per_rank,) = RING.link_bytes(kind, n, size)
    sent = np.zeros(n)
    received = np.zeros(n)
    for task in program.tasks:
        sent[task.rank] += task.info["communication_bytes"]
        received[(task.rank + 1) % n] += sum(task.demand.values())
    np.testing.assert_allclose(sent, per_rank, rtol=1e-9)
    np.testing.assert_allclose(received, per_rank, rtol=1e-9)
    assert sum(program.totals().values()) == pytest.approx(n * per_rank, rel=1e-9)


@given(kinds, st.integers(2, 5000), sizes, rates, times)
def test_never_faster_than_the_wire(kind, n, size, rate, latency) -> None:  # type: ignore[no-untyped-def]
    # What must leave each rank: everything it lacks or holds of others, whatever the algorithm.
    least = (n - 1) / n * size / rate * (2 if kind == "all_reduce" else 1)
    assert KINDS[kind](n, size, rate, latency) >= least * (1 - 1e-12)


@given(kinds, ranks, sizes, rates, times)
def test_half_the_bandwidth_is_never_faster(kind, n, size, rate, latency) -> None:  # type: ignore[no-untyped-def]
    whole, half = (run(play(kind, n, size, r, latency)).makespan for r in (rate, rate / 2))
    assert half >= whole
    assert KINDS[kind](n, size, rate / 2, latency) >= KINDS[kind](n, size, rate, latency)


def test_arrays_broadcast_and_one_rank_is_free() -> None:
    n = np.array([1, 2, 3, 8])
    size = np.array([[1e6], [7.0]])
    got = all_reduce_time(n, size, 1e9, 1e-6, base=1e-5)
    assert got.shape == (2, 4)
    assert (got[:, 0] == 0).all()
    for i in range(2):
        for j in range(1, 4):
            assert got[i, j] == all_reduce_time(int(n[j]), float(size[i, 0]), 1e9, 1e-6, 1e-5)
    assert all_gather_time(1, 1e9, 1e9, 1.0) == 0.0
    assert reduce_scatter_time(4, 4e9, 1e9, 0.5, 2.0) == pytest.approx(2 + 3 * 1.5)


def test_all_reduce_is_reduce_scatter_then_all_gather() -> None:
    both = reduce_scatter_time(6, 1e7, 1e9, 1e-6) + all_gather_time(6, 1e7, 1e9, 1e-6)
    assert all_reduce_time(6, 1e7, 1e9, 1e-6) == pytest.approx(both, rel=1e-12)


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("sharing", ["own link", "one bus", "bus and link"])
def test_folded_equals_unfolded(n: int, kind: str, sharing: str) -> None:
    ends, load = [], []
    for folded in (False, True):
        program = Program()
        bus = program.resource("bus", 3e9)
        routes = []
        for i in range(n):
            link = program.resource(f"link{i}", 1e9)
            routes.append({"own link": [link], "one bus": [bus], "bus and link": [bus, link]}[sharing])
        before = [(program.add("gemm", kind="compute", rank=i, duration=1e-3),) for i in range(1 if folded else n)]
        done = lower(program, RING, kind, n, 10e6 + 1, lambda s, t, c, routes=routes: (routes[s], 0.0),
                     latency=2e-6, after=before, folded=folded, bandwidth=0.8e9)  # fmt: skip
        for i, tasks in enumerate(done):
            program.add("next", kind="compute", rank=i, after=tasks, duration=1e-3)
        ends.append(run(program).makespan)
        load.append(program.totals()["bus"])
    assert ends[1] == pytest.approx(ends[0], rel=1e-9)
    assert load[1] == pytest.approx(load[0], rel=1e-9)


def test_steps_wait_for_what_they_pass_on() -> None:
    # One late rank delays everyone: its first chunk goes all the way round.
    program = Program()
    links = [[program.resource(f"link{i}", 1e9)] for i in range(4)]
    late = [(program.add("gemm", kind="compute", rank=i, duration=1.0 if i == 2 else 0.0),)
            for i in range(4)]  # fmt: skip
    done = lower(program, RING, "all_gather", 4, 4e9, lambda s, t, c: (links[s], 0.0), after=late)
    ends = run(program).end
    assert [max(ends[list(tasks)]) for tasks in done] == pytest.approx([4.0, 4.0, 4.0, 4.0])


def test_wrong_counts_are_refused() -> None:
    program = Program()
    link = program.resource("link", 1.0)
    with pytest.raises(ValueError, match="in after"):
        lower(program, RING, "all_reduce", 3, 1.0, lambda s, t, c: ([link], 0.0), after=[()] * 2)
    assert lower(program, RING, "all_reduce", 1, 1.0, lambda s, t, c: ([link], 0.0), after=[(0,)]) == [(0,)]
