"""Random programs, and a slow simulator that shares no code with the engine."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import strategies as st

from commlens.simulator import Program, max_min


@st.composite
def _programs(draw: st.DrawFn, contended: bool = True, classes: bool = True) -> Program:
    """A program of up to 14 tasks on up to 6 streams and 4 resources.

    Without contention every stream has a resource of its own.
    """
    program = Program("random")
    number = st.floats(0.1, 10.0)
    streams = draw(st.integers(1, 6))
    names = [program.resource(f"r{k}", draw(number)) for k in range(4 if contended else streams)]
    for _ in range(draw(st.integers(1, 14))):
        stream = draw(st.integers(0, streams - 1))
        legal = names if contended else [names[stream]]
        wanted = draw(st.lists(st.sampled_from(legal), max_size=3, unique=True))
        demand = {key: draw(number) for key in wanted}
        needed = max((amount / program.resources[key].capacity for key, amount in demand.items()),
                     default=0.0)  # fmt: skip
        # One in three tasks uses less than a whole resource even alone.
        slack = draw(st.sampled_from([1.0, 1.0, 1.7]))
        known = list(range(program.count))
        program.add(
            f"task {program.count}",
            kind=draw(st.sampled_from(["compute", "communication", "memory", "sync"])),
            rank=stream // 2,
            stream=f"s{stream % 2}",
            after=draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else (),
            demand=demand,
            duration=needed * slack if demand else draw(st.sampled_from([0.0, 0.5, 1.25])),
            latency=draw(st.sampled_from([0.0, 0.0, 0.3])),
            priority=draw(st.sampled_from([0, 0, 1, 2])) if classes else 0,
            weight=draw(st.sampled_from([1.0, 1.0, 0.5, 3.0])),
        )
    return program


@pytest.fixture(scope="session")
def programs() -> Callable[..., st.SearchStrategy[Program]]:
    return _programs


def _step_by_step(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every task, solving everything that runs afresh at every event."""
    count = program.count
    capacity = [resource.capacity for resource in program.resources.values()]
    names = list(program.resources)
    usage = np.zeros((count, len(names)))
    for task in program.tasks:
        for key, amount in task.demand.items():
            if task.duration:
                full = amount / (task.duration * capacity[names.index(key)])
                usage[task.id, names.index(key)] = min(full, 1.0)
    weight = np.array([task.weight for task in program.tasks])
    priority = np.array([task.priority for task in program.tasks])
    before = [set(task.after) for task in program.tasks]
    last: dict[tuple[int, str], int] = {}
    for task in program.tasks:
        if (task.rank, task.stream) in last:
            before[task.id].add(last[task.rank, task.stream])
        last[task.rank, task.stream] = task.id
    start, end = np.full(count, np.nan), np.full(count, np.nan)
    wait = np.array([task.latency for task in program.tasks])
    work = np.array([task.duration for task in program.tasks])
    now = 0.0
    while np.isnan(end).any():
        moved = True
        while moved:
            moved = False
            for i in range(count):
                if np.isnan(start[i]) and not np.isnan(end[list(before[i])]).any():
                    start[i], moved = now, True
                if not np.isnan(start[i]) and np.isnan(end[i]) and wait[i] + work[i] <= 1e-11:
                    end[i], moved = now, True
        running = np.flatnonzero(~np.isnan(start) & np.isnan(end))
        if not len(running):
            continue
        waiting = running[wait[running] > 1e-11]
        fluid = running[wait[running] <= 1e-11]
        speed = max_min(usage[fluid], weight[fluid], priority[fluid]) if len(fluid) else np.ones(0)
        with np.errstate(divide="ignore"):
            step = min(wait[waiting].min(initial=np.inf), (work[fluid] / speed).min(initial=np.inf))
        now += step
        wait[waiting] -= step
        work[fluid] -= speed * step
    return start, end


@pytest.fixture(scope="session")
def step_by_step() -> Callable[[Program], tuple[np.ndarray, np.ndarray]]:
    return _step_by_step
