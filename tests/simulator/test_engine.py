"""The engine against bounds, a slow simulator, and cases worked out by hand."""

import gc
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.simulator import Program, critical_path_time, finish_times, run, serial_time


@settings(max_examples=150)
@given(st.data())
def test_between_critical_path_and_serial_sum(programs, data) -> None:  # type: ignore[no-untyped-def]
    program = data.draw(programs())
    makespan = run(program).makespan
    assert critical_path_time(program) <= makespan * (1 + 1e-9) + 1e-12
    assert makespan <= serial_time(program) * (1 + 1e-9) + 1e-12


@settings(max_examples=100)
@given(st.data())
def test_estimate_is_exact_without_contention(programs, data) -> None:  # type: ignore[no-untyped-def]
    program = data.draw(programs(contended=False))
    np.testing.assert_allclose(run(program).end, finish_times(program), rtol=1e-9, atol=0)


@settings(max_examples=150)
@given(st.data())
def test_equals_step_by_step(programs, step_by_step, data) -> None:  # type: ignore[no-untyped-def]
    program = data.draw(programs())
    start, end = step_by_step(program)
    trace = run(program)
    np.testing.assert_allclose(trace.start, start, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(trace.end, end, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.parametrize("classes", [1, 2])
def test_equals_step_by_step_in_a_crowd(step_by_step, redraw, classes) -> None:  # type: ignore[no-untyped-def]
    # Long streams over few resources: groups form, take over speeds of those who left, fall apart.
    rng = random.Random(7)
    program = Program("crowd")
    names = [program.resource(f"r{k}", 1.0) for k in range(8)]
    routes = [rng.sample(names, rng.choice((1, 2, 3))) for _ in range(14)]
    for _ in range(12):
        for s, fixed in enumerate(routes):
            route = rng.sample(names, rng.choice((1, 2, 3))) if redraw else fixed
            amount = rng.choice((0.5, 1.0, rng.uniform(0.5, 1.5)))
            program.add(
                "t", kind="communication", rank=s, priority=s % classes,
                demand={r: amount * (rng.uniform(0.2, 1.0) if redraw else 1.0) for r in route},
                latency=rng.choice((0.0, 0.0, 0.2)),
            )  # fmt: skip
    start, end = step_by_step(program)
    trace = run(program)
    np.testing.assert_allclose(trace.start, start, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(trace.end, end, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_equals_step_by_step_when_much_happens_at_once(step_by_step, seed) -> None:  # type: ignore[no-untyped-def]
    # Few sizes, so that ends and starts of equal and of different tasks fall on the same instants.
    rng = random.Random(seed)
    program = Program("in step")
    names = [program.resource(f"r{k}", 1.0) for k in range(4)]
    for _ in range(10):
        for s in range(10):
            program.add(
                "t", kind="communication", rank=s, duration=1.0,
                demand=dict.fromkeys(rng.sample(names, rng.choice((1, 2))), rng.choice((0.25, 0.5))),
                after=rng.sample(range(program.count), min(program.count, rng.choice((0, 0, 1, 2)))),
            )  # fmt: skip
    start, end = step_by_step(program)
    trace = run(program)
    np.testing.assert_allclose(trace.start, start, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(trace.end, end, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_that_end_together_is_replaced_by_its_equal(which: int) -> None:
    program = Program()
    link = program.resource("link", 1.0)
    for rank, duration in ((0, 1.0), (1, 1.0), (2, 5.0), (which, 1.0)):
        program.add("t", kind="communication", rank=rank, demand={link: 0.4 * duration}, duration=duration)
    # Three want 1.2 until 1.2 s; then two want 0.8 and run freely.
    np.testing.assert_allclose(run(program).end, [1.2, 1.2, 5.2, 2.2], rtol=1e-12)


def test_one_that_ends_is_replaced_by_its_equal_and_another() -> None:
    program = Program()
    link = program.resource("link", 1.0)
    options = {"kind": "communication", "duration": 1.0}
    first = program.add("a", rank=0, demand={link: 0.75}, **options)  # type: ignore[arg-type]
    program.add("long", kind="communication", rank=1, demand={link: 1.5}, duration=3.0)
    program.add("b", rank=2, after=first, demand={link: 0.25}, **options)  # type: ignore[arg-type]
    program.add("c", rank=0, demand={link: 0.75}, **options)  # type: ignore[arg-type]
    # To 1.5 s half the link each; to 2.5 s b has its quarter and the others 0.375 each; then half.
    np.testing.assert_allclose(run(program).end, [1.5, 3.25, 2.5, 3.25], rtol=1e-12)


@settings(max_examples=100)
@given(st.data())
def test_work_is_conserved_and_no_resource_overloaded(programs, data) -> None:  # type: ignore[no-untyped-def]
    program = data.draw(programs())
    trace = run(program, record=True)
    assert trace.rates is not None
    for task in program.tasks:
        if program.uses[task.id] is None:
            continue
        mine = trace.rates.task == task.id
        times = np.append(trace.rates.time[mine], trace.end[task.id])
        speed = trace.rates.speed[mine]
        assert times[0] == pytest.approx(trace.start[task.id] + task.latency, rel=1e-12)
        assert (speed * np.diff(times)).sum() == pytest.approx(task.duration, rel=1e-9)
    moved = dict.fromkeys(program.resources, 0.0)
    for name, (times, fraction) in trace.utilisation().items():
        assert (fraction <= 1 + 1e-8).all()
        assert (fraction >= -1e-8).all()
        moved[name] = (fraction[:-1] * np.diff(times)).sum() * program.resources[name].capacity
    assert moved == pytest.approx(program.totals(), rel=1e-7, abs=1e-9)


@settings(max_examples=60)
@given(st.data())
def test_same_program_same_trace(programs, data) -> None:  # type: ignore[no-untyped-def]
    program = data.draw(programs())
    one, two = run(program), run(program, record=True)
    assert one.end.tobytes() == two.end.tobytes()
    assert one.start.tobytes() == two.start.tobytes()


def test_two_flows_share_a_link_then_one_has_it() -> None:
    program = Program()
    link = program.resource("link", 10.0)
    program.add("short", kind="communication", rank=0, demand={link: 10.0})
    program.add("long", kind="communication", rank=1, demand={link: 30.0})
    # Both at half speed until 2 s, when the long one has 20 of 30 left.
    np.testing.assert_allclose(run(program).end, [2.0, 4.0], rtol=1e-12)


def test_priority_goes_first_and_weight_divides() -> None:
    for options, expected in (
        ({"priority": 1}, [3.0, 1.0]),
        ({"weight": 3.0}, [3.0, 4 / 3]),
    ):
        program = Program()
        link = program.resource("link", 10.0)
        program.add("a", kind="communication", rank=0, demand={link: 20.0})
        program.add("b", kind="communication", rank=1, demand={link: 10.0}, **(
            {"priority": -1} if "priority" in options else options))  # type: ignore[arg-type]  # fmt: skip
        np.testing.assert_allclose(run(program).end, expected, rtol=1e-12)


def test_a_small_user_keeps_its_share() -> None:
    # A collective on 20 of 132 SMs keeps them; the GEMM gets the other 112 while it lasts.
    program = Program()
    sm = program.resource("sm", 132.0)
    program.add("gemm", kind="compute", rank=0, stream="main", demand={sm: 132.0})
    program.add("ring", kind="communication", rank=0, stream="comm", demand={sm: 10.0}, duration=0.5)
    np.testing.assert_allclose(run(program).end, [0.5 + (1 - 0.5 * 112 / 132), 0.5], rtol=1e-12)


def test_latency_uses_nothing() -> None:
    program = Program()
    link = program.resource("link", 10.0)
    program.add("a", kind="communication", rank=0, demand={link: 10.0}, latency=1.0)
    program.add("b", kind="communication", rank=1, demand={link: 10.0})
    np.testing.assert_allclose(run(program).end, [2.0, 1.0], rtol=1e-12)


def test_long_chains_of_nothing() -> None:
    program = Program()
    for _ in range(5000):
        program.add("nothing", kind="sync")
    program.add("last", kind="compute", duration=1.0)
    assert run(program).makespan == 1.0


def test_empty_program_and_garbage_collector() -> None:
    trace = run(Program())
    assert trace.makespan == critical_path_time(Program()) == serial_time(Program()) == 0.0
    assert gc.isenabled()
    gc.disable()
    try:
        run(Program())
        assert not gc.isenabled()
    finally:
        gc.enable()


def slower(program: Program, which: str) -> Program:
    """The same program with half the capacity of one resource."""
    other = Program(program.name)
    for name, resource in program.resources.items():
        other.resource(name, resource.capacity / (2 if name == which else 1))
    for task in program.tasks:
        needed = max((a / other.resources[k].capacity for k, a in task.demand.items()), default=0.0)
        other.add(
            task.name, kind=task.kind, rank=task.rank, stream=task.stream, after=task.after,
            demand=task.demand, duration=max(task.duration, needed), latency=task.latency,
            priority=task.priority, weight=task.weight,
        )  # fmt: skip
    return other


@settings(max_examples=60)
@given(st.data())
def test_half_a_resource_never_helps_independent_streams(programs, data) -> None:  # type: ignore[no-untyped-def]
    # Not a theorem for programs with dependencies (Graham's anomalies); it holds where each stream
    # uses one resource of its own, however the streams wait for each other.
    program = data.draw(programs(contended=False))
    which = data.draw(st.sampled_from(list(program.resources)))
    assert run(slower(program, which)).makespan >= run(program).makespan * (1 - 1e-9)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8), st.integers(0, 1))
def test_half_a_resource_never_helps_a_chain(sizes: list[float], which: int) -> None:
    program = Program()
    names = [program.resource("a", 2.0), program.resource("b", 3.0)]
    for number, size in enumerate(sizes):
        program.add("t", kind="communication", demand={names[number % 2]: size, names[0]: size / 2})
        program.add("r", kind="communication", rank=1, demand={names[which]: size})
    half = run(slower(program, names[which])).makespan
    assert half >= run(program).makespan * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_residents_among_kernels_end_when_they_would_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = Program("residents")
    units = program.resource("units", 1.0)
    ready: tuple[int, ...] = ()
    alone = []
    for _ in range(12):
        for length in rng.uniform(1e-10, 2e-7, size=5):
            ready = (program.add("kernel", kind="compute", after=ready, duration=length,
                                 demand={units: length}, priority=1),)  # fmt: skip
        length = rng.uniform(1e-7, 8e-6)
        alone.append((program.add("resident", kind="communication", stream="comm", after=ready,
                                  duration=length, demand={units: 0.18 * length}), length))  # fmt: skip
    trace = run(program)
    for task, length in alone:
        assert trace.end[task] - trace.start[task] == pytest.approx(length, rel=1e-9)
