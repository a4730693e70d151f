"""Plans are all the legal ones, cost what a single plan's estimate says, and rank as brute force ranks them."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens import InputError, Scenario, estimate, search, simulate
from commlens.models.kernels import Kernels
from commlens.models.pipeline.orders import SEARCHED, legal
from commlens.models.plan import Plan
from commlens.models.predict import technique_of
from commlens.models.search.enumerate import Choice, layouts, plans_of, rows_of
from commlens.models.search.evaluate import DEGREES, Block
from commlens.models.search.rank import KEYS, Ranked
from commlens.models.search.space import device_counts, space_of
from commlens.models.search.table import PLAN_KEYS, planned, records
from commlens.models.training.parts import parts_of
from commlens.models.training.stages import stage_table
from commlens.models.training.timing import step_timing

DENSE = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
MIXTURE = {**DENSE, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def scenario(model=DENSE, nodes=1, batch=8, **more):
    return Scenario.from_dict(
        {
            "model": model,
            "cluster": {"preset": "dgx-a100", "nodes": nodes},
            "workload": {"phase": "training", "sequence_length": 512, "global_batch": batch, "micro_batch": 1},
            **more,
        }
    )


def enumerated(case, devices, asked):
    """Every plan the search tries, as dicts."""
    space = space_of(case, devices, asked)
    rows = rows_of(space, layouts(space))
    for choice in space.choices:
        for place, vp in zip(*plans_of(space, rows, choice), strict=True):
            row = {axis: int(rows[axis][place]) for axis in (*DEGREES, "micro_batch")}
            yield {**row, "vp": int(vp), **{f.name: getattr(choice, f.name) for f in fields(choice)}}


def is_legal(case, row):
    try:
        planned(case, row)
    except InputError:
        return False
    return True


def brute_force(case, devices, experts, zeros):
    """The same by trying everything: what a scenario accepts, less what is a plan by another name."""
    batch, layers = case.workload.global_batch, case.model.layers
    degrees = [n for n in range(1, devices + 1) if devices % n == 0]
    for tp, pp, cp, dp in product(degrees, range(1, devices + 1), degrees, degrees):
        if tp * pp * cp * dp != devices or batch % dp or pp > layers:
            continue
        if cp > 1 and case.workload.sequence_length % (2 * cp):  # an early and a late part for each rank
            continue
        divisions = [(1, tp)] if not experts else product(range(1, experts + 1), sorted({1, tp}))
        for (ep, etp), micro, vp, schedule in product(divisions, range(1, batch + 1), range(1, layers + 1), SEARCHED):
            if (batch // dp) % micro:
                continue
            if (schedule == "interleaved") != (vp > 1) or (pp == 1 and schedule not in ("1f1b", "interleaved")):
                continue
            if pp == 1 and vp > 1:
                continue
            for sequence_parallel, zero in product((False, True), zeros):
                if (sequence_parallel and tp == 1) or (zero and dp * cp == 1):
                    continue
                row = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "ep": ep, "etp": etp, "vp": vp, "micro_batch": micro}
                row |= {"schedule": schedule, "sequence_parallel": sequence_parallel, "zero": zero}
                if legal(schedule, pp, vp, batch // (dp * micro)) and is_legal(case, row):
                    yield tuple(row.values())


@pytest.mark.parametrize(
    ("model", "experts", "devices", "batch", "zeros"),
    [(DENSE, 0, 4, 4, (0, 3)), (DENSE, 0, 6, 6, (1,)), (MIXTURE, 4, 4, 4, (0,))],
)
def test_enumeration_is_brute_force(model, experts, devices, batch, zeros):
    case = scenario(model, batch=batch)
    asked = {"zero": list(zeros), "recompute": "none", "offload": "none", "tp": [1, 2, 4, 8]}
    keys = ("tp", "pp", "cp", "dp", "ep", "etp", "vp", "micro_batch", "schedule", "sequence_parallel", "zero")
    found = [tuple(row[key] for key in keys) for row in enumerated(case, (devices,), asked)]
    assert len(found) == len(set(found))
    assert set(found) == set(brute_force(case, devices, experts, zeros))


def test_choices_multiply():
    case = scenario()
    one = len(list(enumerated(case, (8,), {"recompute": "none", "offload": "none"})))
    assert len(list(enumerated(case, (8,), None))) == 6 * one
    layered = {"recompute": ["none", "full"], "recompute_layers": [None, 1], "offload": "none"}
    assert len(list(enumerated(case, (8,), layered))) == 3 * one


CASES = [
    ({}, {}),
    ({"model": MIXTURE}, {}),
    ({"plan": {"overlap": ["gradients", "parameters", "pipeline"], "placement": "dp-tp-cp-pp"}}, {}),
    (
        {"plan": {"overlap": []}, "stragglers": {"spread": 0.02}},
        {"shard_group": [None, 2], "recompute_layers": [None, 1]},
    ),
]


@pytest.mark.parametrize(("more", "asked"), CASES)
def test_rows_are_the_formulas_of_whole_plans(more, asked):
    """Looked up where unlike, or composed for every plan: the same to rounding."""
    case = scenario(**{"nodes": 2, "batch": 16, **more})
    space = space_of(case, (16,), asked)
    rows = rows_of(space, layouts(space))
    block = Block(case, space, rows)
    kernels = Kernels(case.cluster.device, case.software, case.workload.dtype, training=True)
    rng = np.random.default_rng(0)
    for choice in rng.permutation(np.array(space.choices, dtype=object))[:12]:
        places, chunks = plans_of(space, rows, choice)
        if not len(places):
            continue
        memory = block.memory(choice, places, chunks)
        timing = block.timed(choice, places, chunks, memory).timing
        degrees = {axis: rows[axis][places] for axis in DEGREES}
        plan = Plan(**degrees, vp=chunks, **{f.name: getattr(choice, f.name) for f in fields(Choice)})
        work = replace(case.workload, micro_batch=rows["micro_batch"][places])
        parts = parts_of(case.model, case.cluster, kernels, work, plan, technique_of(case))
        whole = step_timing(parts, plan, work, stage_table(case.model, plan), case.model.layers, block.slow[places])
        for name in ("time", "bubble", "weights", "update"):
            # Of seconds and their sums, so a bubble of nothing is nothing to rounding.
            scale = np.abs(whole.time)
            assert np.all(np.abs(getattr(timing, name) - getattr(whole, name)) <= 1e-9 * scale), (choice, name)


@pytest.mark.parametrize(("more", "asked"), CASES)
def test_rows_are_legal_and_are_their_estimates(more, asked):
    case = scenario(**{"nodes": 2, "batch": 16, **more})
    frame = search(case, 16, keep=3000, space=asked)
    assert len(frame) == min(3000, frame.attrs["fits"])
    picked = frame.iloc[np.random.default_rng(1).choice(len(frame), 25, replace=False)]
    for row in picked.to_dict("records"):
        alone = estimate(planned(case, row))
        assert alone.fits
        assert alone.memory_bytes["total"] == pytest.approx(row["memory"], rel=1e-9)
        # A single plan counts what products read again from beyond the cache; a search does not.
        assert alone.time_s == pytest.approx(row["time_s"], rel=5e-3)
        assert alone.mfu == pytest.approx(row["mfu"], rel=5e-3)
        shares = row["compute_s"] + row["bubble_s"] + row["exposed_communication_s"]
        assert shares == pytest.approx(row["time_s"], rel=1e-9)


def test_best_and_fits_are_those_of_brute_force():
    case = scenario({**DENSE, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 12}, batch=8)
    asked = {
        "zero": [0, 1],
        "recompute": ["none", "full"],
        "offload": "none",
        "schedule": ["1f1b", "zero-bubble"],
        "cp": 1,
    }
    frame = search(case, 8, space=asked, keep=10_000)
    plans = list(enumerated(case, (8,), asked))
    alone = [estimate(planned(case, row)) for row in plans]
    columns = [*KEYS, "schedule", "sequence_parallel", "zero", "recompute"]
    fitting = {tuple(row[key] for key in columns) for row, one in zip(plans, alone, strict=True) if one.fits}
    assert frame.attrs["evaluated"] == len(plans)
    assert 0 < len(frame) == len(fitting) < len(plans)
    assert set(frame[columns].itertuples(index=False, name=None)) == fitting
    least = min(one.time_s for one in alone if one.fits)
    assert frame["time_s"].iloc[0] == pytest.approx(least, rel=5e-3)
    assert estimate(planned(case, frame.iloc[0].to_dict())).time_s <= least * 1.005


FEW = {"zero": [0, 1, 3], "recompute": ["none", "full"], "offload": "none"}


def few(**more):
    return search(scenario(nodes=2, batch=16), [8, 16], keep=50, space=FEW, **more)


@pytest.fixture(scope="module")
def whole():
    return search(scenario(nodes=2, batch=16), (8, 16), keep=50, space=FEW)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 23])
def test_blocks_of_any_size_find_the_same(whole, size):
    again = few(layouts_at_once=size)
    assert again.equals(whole)
    for name in ("evaluated", "fits", "rejected", "pareto"):
        assert again.attrs[name] == whole.attrs[name]


def test_threads_find_the_same(whole):
    with ThreadPoolExecutor(2) as pool:
        assert few(executor=pool).equals(whole)


@pytest.mark.slow
def test_processes_find_the_same(whole):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert few(executor=pool).equals(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_dask_finds_the_same(whole):
    distributed = pytest.importorskip(
        "distributed", reason="dask.distributed is not installed (pip install commlens[dask])"
    )
    with distributed.Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        assert few(executor=client.get_executor()).equals(whole)


def test_order_and_front(whole):
    assert whole["time_s"].is_monotonic_increasing
    assert whole["fits"].all()
    assert set(whole["devices"]) <= {8, 16}
    front = whole.attrs["pareto"]
    times, memory = [row["time_s"] for row in front], [row["memory"] for row in front]
    assert times == sorted(times)
    assert memory == sorted(memory, reverse=True)
    assert times[0] == whole["time_s"].iloc[0]
    every = search(scenario(nodes=2, batch=16), [8, 16], keep=100_000, space=FEW)
    for row in every.iloc[::97].itertuples():
        assert any(t <= row.time_s and m <= row.memory for t, m in zip(times, memory, strict=True))
    assert every.head(50).equals(whole)


def test_rank_by_cost_prefers_fewer_devices():
    case = scenario(nodes=2, batch=16)
    dear = search(case, (1, 16), by="cost", price=2.0, keep=20)
    assert dear["cost_per_million_tokens"].is_monotonic_increasing
    tokens = 16 * 512
    row = dear.iloc[0]
    assert row["cost_per_million_tokens"] == pytest.approx(2.0 * row["devices"] * row["time_s"] / 3600 / tokens * 1e6)
    assert row["devices"] < search(case, (1, 16))["devices"].iloc[0]


def test_simulated_column():
    frame = search(scenario(), 8, keep=4, simulate=2, space={"zero": [0, 1], "schedule": "1f1b"})
    assert frame["simulated_time_s"].notna().tolist() == [True, True, False, False]
    assert frame["simulated_time_s"][0] == simulate(planned(scenario(), frame.iloc[0].to_dict())).time_s


def test_more_devices_than_the_cluster_add_nodes_and_keep_the_batch():
    case = scenario(batch=32, plan={"dp": 4})
    frame = search(case, 32, keep=5)
    assert (frame["devices"] == 32).all()
    assert estimate(planned(case, frame.iloc[0].to_dict())).time_s == pytest.approx(frame["time_s"][0], rel=5e-3)


def test_tables_are_written(tmp_path):
    import pandas as pd

    frame = search(scenario(), 8, keep=3, out=tmp_path / "plans.csv")
    assert list(pd.read_csv(tmp_path / "plans.csv")["time_s"]) == pytest.approx(list(frame["time_s"]))
    assert set(PLAN_KEYS) <= set(frame.columns)
    if find_spec("pyarrow") is None and find_spec("fastparquet") is None:
        with pytest.raises(InputError, match="pyarrow"):
            search(scenario(), 8, keep=3, out=tmp_path / "plans.parquet")
    else:
        search(scenario(), 8, keep=3, out=tmp_path / "plans.parquet")
        assert len(pd.read_parquet(tmp_path / "plans.parquet")) == 3
    with pytest.raises(InputError, match="cannot write"):
        search(scenario(), 8, keep=3, out=tmp_path / "nowhere" / "plans.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"by": "speed"}, "time, throughput, cost"),
        ({"keep": 0}, "keep: 0"),
        ({"keep": True}, "keep: True"),
        ({"simulate": -1}, "simulate: -1"),
        ({"price": 0.0}, "price: 0.0"),
        ({"price": float("nan")}, "price: nan"),
        ({"out": "plans.txt"}, ".parquet"),
        ({"space": {"tpp": 2}}, "tpp"),
        ({"space": {"zero": 7}}, "0 to 3"),
        ({"space": {"zero": []}}, "no values"),
        ({"space": {"schedule": "1f2b"}}, "1f1b"),
        ({"space": {"placement": "tp-dp"}}, "placement"),
        ({"space": {"tp": "two"}}, "tp"),
        ({"devices": "many"}, "1 to 1000000"),
        ({"devices": []}, "1 to 1000000"),
        ({"devices": (16, 8)}, "lower number first"),
        ({"devices": [8, 0]}, "devices: 0"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(InputError) as problem:
        search(scenario(), **{"devices": 8, **arguments})
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


def test_nothing_fits_is_an_empty_table():
    frame = search(scenario({**DENSE, "hidden_size": 65536, "intermediate_size": 262144}), 1)
    assert frame.empty
    assert frame.attrs["evaluated"] > 0
    assert frame.attrs["rejected"] == {"memory does not fit": frame.attrs["evaluated"]}
    assert frame.attrs["pareto"] == []


def test_device_counts():
    assert device_counts(None, 24) == (24,)
    assert device_counts((64, 4096), 8) == (64, 128, 256, 512, 1024, 2048, 4096)
    assert device_counts((6, 25), 8) == (6, 12, 24)
    assert device_counts([16, 8, 16], 8) == (8, 16)
    assert device_counts(range(8, 33, 8), 8) == (8, 16, 24, 32)


def some_plans(points):
    score = np.array([time for time, _ in points], dtype=float)
    known = np.zeros((len(points), Ranked.none().known.shape[1]))
    known[:, 0], known[:, -1] = score, [memory for _, memory in points]
    keys = np.zeros((len(points), len(KEYS) + 1), dtype=np.int64)
    keys[:, 0] = np.arange(len(points))
    return Ranked(score, keys, known)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40), st.integers(0, 40))
def test_front_and_best_are_brute_force_and_may_be_merged(points, cut):
    plans = some_plans(points)
    front = plans.front()
    for time, memory in set(points):
        beaten = any((t < time and m <= memory) or (t <= time and m < memory) for t, m in points)
        assert ((time, memory) in set(zip(front.time, front.memory, strict=True))) != beaten
    halves = plans.some(slice(None, cut)), plans.some(slice(cut, None))
    merged = halves[0].front().and_(halves[1].front()).front()
    assert np.array_equal(merged.keys, front.keys)
    best = plans.best(5)
    assert list(best.score) == sorted(plans.score)[:5]
    again = halves[1].best(5).and_(halves[0].best(5)).best(5)
    assert np.array_equal(again.keys, best.keys)


def test_chunks_of_async_tp_are_costed_for_many_plans_as_for_one():
    """Some of the plans have no tensor-parallel ranks, and some too few rows for all chunks."""
    case = scenario(nodes=2, batch=16).with_techniques([{"name": "async_tp", "chunks": 6}])
    frame = search(case, [8], keep=10_000, space={**FEW, "sequence_parallel": [True, False]})
    assert {1, 2} <= set(frame["tp"])
    for row in records(frame)[:: max(1, len(frame) // 25)]:
        assert estimate(planned(case, row)).time_s == pytest.approx(row["time_s"], rel=1e-6), row


def test_what_has_no_closed_form_is_not_searched():
    case = scenario(nodes=2, batch=16).with_techniques(["t3"])
    with pytest.raises(InputError, match=r"techniques: t3 has no closed form to rank training plans by .legal"):
        search(case, [8], space=FEW)
