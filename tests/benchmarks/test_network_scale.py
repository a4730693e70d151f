"""What collectives cost to simulate as the number of GPUs grows, each case in a process of its own.

Targets, on one core: a ring all-reduce on 4,096 GPUs, folded, 0.2 s and 300 MB; on 512 GPUs with every
rank and step, 15 s and 1 GB. Nothing here fails for being slow. With ``COMMLENS_BENCHMARK_PLOT`` set,
the cost against the number of GPUs is drawn into that file.
"""

import json
import os
import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark

CHILD = """
import json, resource, sys, time
from commlens.hardware.fabrics import switch
from commlens.simulator import Program, TopologyRoutes, algorithm, lower, run, wire_bound
n, folded, size = int(sys.argv[1]), sys.argv[2] == "folded", 2.0**30
begin = time.process_time()
program = Program("ring")
lower(program, algorithm("ring"), "all_reduce", n, size, TopologyRoutes(program, switch(n, 450e9, 5e-7)), folded=folded)
took = run(program).end.max()
seconds = time.process_time() - begin
assert took >= wire_bound("all_reduce", n, size, 450e9)
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, program.count]))
"""


def cost(ranks: int, how: str) -> tuple[float, float, int]:
    """CPU seconds, peak MB and tasks of one all-reduce."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(ranks), how], capture_output=True, text=True, check=True)
    seconds, memory, count = json.loads(done.stdout)
    return seconds, memory, count


def test_ring_all_reduce_of_4096_folded(benchmark: BenchmarkFixture) -> None:
    seconds, memory, count = benchmark.pedantic(cost, (4096, "folded"), rounds=1)
    print(f"\n4,096 GPUs folded: {count:,} tasks, {seconds:.2f} CPU-s (target 0.2), {memory:.0f} MB (target 300)")


def test_ring_all_reduce_of_512_unfolded(benchmark: BenchmarkFixture) -> None:
    seconds, memory, count = benchmark.pedantic(cost, (512, "whole"), rounds=1)
    print(f"\n512 GPUs, every rank: {count:,} tasks, {seconds:.1f} CPU-s (target 15), {memory:.0f} MB (target 1000)")


def test_cost_against_the_number_of_gpus(benchmark: BenchmarkFixture) -> None:
    counts = {"folded": [64, 256, 1024, 4096, 16384], "whole": [16, 32, 64, 128, 256]}
    found = benchmark.pedantic(lambda: {how: [cost(n, how)[0] for n in ns] for how, ns in counts.items()}, rounds=1)
    for how, seconds in found.items():
        print(f"\n{how}: " + ", ".join(f"{n} GPUs {s:.2f} s" for n, s in zip(counts[how], seconds, strict=True)))
    path = os.environ.get("COMMLENS_BENCHMARK_PLOT")
    if path:
        draw(path, counts, found)


def draw(path: str, counts: dict[str, list[int]], found: dict[str, list[float]]) -> None:
    """Both curves, and what ASTRA-sim's analytical backend needed on a similar machine."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for how, label in (("whole", "every rank and step"), ("folded", "one rank for all")):
        axes.loglog(counts[how], found[how], marker="o", label=label)
    axes.loglog([64, 512, 4096], [0.05, 6.5, 170], "k--", marker="x", label="ASTRA-sim analytical (2025-08)")
    axes.set(xlabel="GPUs", ylabel="CPU seconds", title="Simulating one ring all-reduce of 1 GiB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
