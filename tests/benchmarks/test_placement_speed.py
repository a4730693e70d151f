"""What placing experts takes on one core, each case in a process of its own.

Targets: 64 experts x 12 layers x 8 GPUs within 10 s and 30 % fewer moves than rank order; 256 x 58 x 64 GPUs (8 nodes)
within 5 minutes and 4 GB. Nothing here fails for being slow.
"""

import json
import os
import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark

CHILD = """
import json, resource, sys
import numpy as np
from commlens.solvers.expert_placement import crossings, place_experts, round_robin
kind = sys.argv[1]
layers, experts, devices, nodes, tokens, limit = (int(x) for x in sys.argv[2:])
random = np.random.default_rng(0)
hidden = [random.permutation(experts) for _ in range(layers)]
pairs = []
for here, there in zip(hidden, hidden[1:]):
    share = np.full((experts, experts), 0.5 / experts**2)  # half the tokens go anywhere, half to one of four partners
    for step in range(4):
        partner = there[(np.arange(experts) + step) % experts] if kind == "near" else random.permutation(experts)
        share[here, partner] += 0.125 / experts
    pairs.append(random.multinomial(tokens, share.ravel() / share.sum()).reshape(share.shape))
pairs = np.array(pairs, dtype=float)
seen = []
answer = place_experts(pairs, devices, nodes, time_limit=limit, progress=lambda done, total: seen.append(done))
base = crossings(pairs, round_robin(layers, experts, devices), nodes)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
fewer = 1 - answer.crossings / base[0], 1 - answer.node_crossings / base[1] if nodes > 1 else 0.0
print(json.dumps([answer.seconds, memory, *fewer, answer.gap, answer.status, len(seen)]))
"""
CASES = {
    "64 experts x 12 layers x 8 GPUs": ((12, 64, 8, 1, 100_000, 10), "10 s, 30 % fewer"),
    "64 experts x 12 layers x 2 nodes x 4 GPUs": ((12, 64, 8, 2, 100_000, 10), "10 s, 30 % fewer"),
    "256 experts x 58 layers x 8 nodes x 8 GPUs": ((58, 256, 64, 8, 200_000, 290), "300 s, 4000 MB"),
}


def placed(kind: str, numbers: tuple[int, ...]) -> list[float]:
    """Seconds, peak MB, and what was saved."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, *map(str, numbers)],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found: list[float] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", ["near", "any"])
@pytest.mark.parametrize("case", CASES)
def test_placement(benchmark: BenchmarkFixture, case: str, kind: str) -> None:
    numbers, target = CASES[case]
    seconds, memory, fewer, node_fewer, gap, status, ticks = benchmark.pedantic(placed, (kind, numbers), rounds=1)
    print(
        f"\n{case}, partners {kind}: {seconds:.1f} s, {memory:.0f} MB (target {target}); {fewer:.1%} fewer moves "
        f"between devices and {node_fewer:.1%} between nodes than rank order; gap {gap:.2f}, {status}, {ticks} reports"
    )
    assert fewer > 0
