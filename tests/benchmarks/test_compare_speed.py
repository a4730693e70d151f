"""Comparing five techniques on a 70B model, all layers, as a ratio to a bare SimPy event loop."""

import time

import pytest

TECHNIQUES = ["baseline", "parallel_attention", "ladder_residual", "t3", "async_tp"]
EVENTS = 100_000


def bare_simpy():
    import simpy

    env = simpy.Environment()

    def process():
        for _ in range(EVENTS):
            yield env.timeout(1.0)

    env.process(process())
    env.run()


@pytest.mark.benchmark(group="compare")
def test_compare_five_techniques(benchmark):
    import commlens as cl

    scenario = cl.Scenario.from_dict(
        {
            "model": "llama-3.1-70b",
            "cluster": "dgx-h100",
            "plan": {"tp": 8},
            "workload": {
                "phase": "generate",
                "prompt": 1024,
                "new_tokens": 512,
                "global_batch": 16,
            },
        }
    )
    frame = benchmark.pedantic(cl.compare, (scenario, TECHNIQUES), rounds=3, warmup_rounds=1)
    assert list(frame.index) == TECHNIQUES
    start = time.perf_counter()
    bare_simpy()
    bare = time.perf_counter() - start
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["ratio_to_100k_simpy_timeouts"] = seconds / bare
    ratio = seconds / bare
    print(f"compare, five techniques, 70B, all layers: {seconds:.2f} s, {ratio:.1f} x 100,000 bare SimPy timeouts")
