"""Plans searched per second on one core, and the memory it takes, for GPT-3 175B on A100."""

import time
import tracemalloc

import pytest

import commlens as cl

# Plans per CPU-second of Calculon's search: a recorded figure of other runs, not measured beside these.
CALCULON = 48

SCENARIO = {
    "model": "gpt-3-175b",
    "cluster": {"preset": "dgx-a100", "nodes": 512},
    "workload": {"phase": "training", "sequence_length": 2048, "global_batch": 1536, "micro_batch": 1},
}
# Powers of two together; one number, where what plans share is a larger part of the work.
DEVICES = {"64, 128, ..., 4096": (64, 4096), "1024": 1024, "64": 64}
LEAST = 250_000  # plans per CPU-second, where others share the caches; alone it is three times as many


@pytest.mark.benchmark(group="search")
@pytest.mark.parametrize("devices", DEVICES)
def test_plans_per_second(benchmark, devices):
    scenario = cl.Scenario.from_dict(SCENARIO)
    begin = time.process_time()
    frame = benchmark.pedantic(cl.search, (scenario, DEVICES[devices]), rounds=3, warmup_rounds=1)
    each = (time.process_time() - begin) / 4
    rate = frame.attrs["evaluated"] / benchmark.stats.stats.median
    benchmark.extra_info["plans_per_second"] = rate
    benchmark.extra_info["ratio_to_calculon"] = rate / CALCULON
    print(
        f"search on {devices} A100: {frame.attrs['evaluated']:,} plans, {frame.attrs['fits']:,} fit, "
        f"{rate:,.0f} a second, {rate / CALCULON:,.0f} x Calculon's {CALCULON} a CPU-second"
    )
    assert frame.attrs["evaluated"] > 500_000
    assert frame.attrs["evaluated"] / each > LEAST


@pytest.mark.slow
def test_every_number_of_whole_nodes_stays_within_memory():
    """505 numbers of devices, 53 million plans, were they all searched; a part with every number is."""
    scenario = cl.Scenario.from_dict(SCENARIO)
    tracemalloc.start()
    frame = cl.search(scenario, range(64, 4097, 8), space={"schedule": ["1f1b", "interleaved"], "offload": "none"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{frame.attrs['evaluated']:,} plans in {frame.attrs['seconds']:.0f} s traced, peak {peak / 1e6:.0f} MB")
    assert frame.attrs["evaluated"] > 10_000_000
    assert peak < 1e9


def test_peak_memory():
    """Blocks bound it: the arrays of one number of devices take a part of 1 GB."""
    scenario = cl.Scenario.from_dict(SCENARIO)
    tracemalloc.start()
    cl.search(scenario, 512, space={"schedule": ["1f1b", "interleaved"], "offload": "none"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e8
