"""Tasks per second of the engine, as a ratio to bare SimPy timeouts per second in the same run.

The bare run has one process per stream of the program, each yielding timeouts, so both keep the
same number of events in flight. The two are timed in turn and the best of each counts, which takes
out most of what else the machine does. Targets: 0.25 without contention, 0.02 in the crowd.
"""

import random
import time
from collections.abc import Iterator
from itertools import pairwise

import networkx
import pytest
import simpy
from pytest_benchmark.fixture import BenchmarkFixture

from commlens.simulator import Program, critical_path_time, run

ROUNDS = 5


def bare(count: int, processes: int) -> float:
    """Seconds of `count` timeouts spread over some processes."""

    def process(env: simpy.Environment, delay: float) -> Iterator[simpy.Event]:
        for _ in range(count // processes):
            yield env.timeout(delay)

    env = simpy.Environment()
    for number in range(processes):
        env.process(process(env, 1 + number / 64))
    begin = time.perf_counter()
    env.run()
    return time.perf_counter() - begin


def alone(count: int) -> Program:
    """8 ranks with a compute and a communication stream, dependencies across, nothing shared."""
    rng = random.Random(1)
    program = Program("contention-free")
    ranks = range(8)
    memory = [program.resource(f"gpu{r}.hbm", 3e12) for r in ranks]
    link = [program.resource(f"link{r}", 4e11) for r in ranks]
    sent: list[int] = []
    for step in range(count // 16):
        # Every fourth gemm waits for what the rank before it sent.
        waits = [(sent[r - 1],) if sent and step % 4 == 0 else () for r in ranks]
        sent = []
        for r in ranks:
            gemm = program.add(
                "gemm", kind="compute", rank=r, stream="main", after=waits[r],
                demand={memory[r]: rng.uniform(1e7, 1e8)},
            )  # fmt: skip
            sent.append(
                program.add(
                    "send",
                    kind="communication",
                    rank=r,
                    stream="comm",
                    after=gemm,
                    demand={link[r]: rng.uniform(1e6, 1e7)},
                )
            )
    return program


def crowd(count: int, redrawn: bool) -> Program:
    """64 streams on 32 resources, each task on 2 or 3 of them, sizes at random.

    A stream keeps its route, as a flow does; redrawn, each task has a route and fractions of its
    own, so that every end changes half of all speeds.
    """
    rng = random.Random(2)
    program = Program("crowd")
    names = [program.resource(f"link{k}", 1.0) for k in range(32)]
    routes = [rng.sample(names, rng.choice((2, 3))) for _ in range(64)]
    graph = networkx.Graph((a, b) for route in routes for a, b in pairwise(route))
    assert networkx.is_connected(graph)
    assert len(graph) == 32
    for _ in range(count // 64):
        for stream, fixed in enumerate(routes):
            route = rng.sample(names, rng.choice((2, 3))) if redrawn else fixed
            size = rng.uniform(0.5, 1.5)
            program.add(
                "send", kind="communication", rank=stream,
                demand={key: size * (rng.uniform(0.2, 1.0) if redrawn else 1.0) for key in route},
            )  # fmt: skip
    return program


def measure(benchmark: BenchmarkFixture, program: Program, target: float) -> None:
    timeouts, streams = 100_000, len(program.streams)
    others: list[float] = []
    single: list[float] = []

    def before() -> None:
        others.append(bare(timeouts, streams))
        single.append(bare(timeouts, 1))

    benchmark.pedantic(run, args=(program,), setup=before, rounds=ROUNDS)
    rate = program.count / benchmark.stats.stats.min
    ratio = rate * min(others) / timeouts
    benchmark.extra_info.update(
        ratio=ratio, target=target, tasks_per_second=rate,
        timeouts_per_second=timeouts / min(others),
        ratio_to_one_process=rate * min(single) / timeouts,
    )  # fmt: skip
    print(
        f"\n{program.name}: {rate:,.0f} tasks/s = {ratio:.4f} of SimPy timeouts with {streams} "
        f"processes, {rate * min(single) / timeouts:.4f} with one (target {target})"
    )


def test_contention_free(benchmark: BenchmarkFixture) -> None:
    program = alone(100_000)
    assert program.count == 100_000
    assert run(program).makespan == pytest.approx(critical_path_time(program), rel=1e-9)
    measure(benchmark, program, 0.25)


@pytest.mark.parametrize("redrawn", [False, True], ids=["routes kept", "routes redrawn"])
def test_crowd(benchmark: BenchmarkFixture, redrawn: bool) -> None:
    program = crowd(6_400, redrawn)
    assert run(program).makespan > 2 * critical_path_time(program)
    measure(benchmark, program, 0.02)
