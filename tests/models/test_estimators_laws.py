"""Formulas of the estimators against closed forms, brute force, and the formula that programs are costed by."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import load_device
from commlens.hardware.errors import InputError
from commlens.models.estimators import (
    DecodeEstimator,
    GemmEstimator,
    GroupedGemmEstimator,
    PrefillEstimator,
    StreamingEstimator,
)
from commlens.models.estimators.base import blend
from commlens.models.estimators.expert_loads import expert_rows
from commlens.models.products import TILE_PENALTY, gemm_time

H100, A100, H20 = load_device("h100-sxm"), load_device("a100-80-sxm"), load_device("h20-sxm")


def with_values(made, **values):
    """The estimator as if fitted to these numbers."""
    made.values_ = {name: parameter.start for name, parameter in made.parameters.items()} | values
    made.fitted_, made.tools_, made.rows_ = tuple(values), {}, 0
    made.outliers_ = np.array([], dtype=np.int64)
    return made


@given(
    st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=4),
    st.sampled_from([1.0, 2.0, 5.0, math.inf]),
)
def test_blend_lies_between_the_largest_and_the_sum(terms, sharpness):
    found = blend(sharpness, *terms)
    assert max(terms) * (1 - 1e-12) <= found <= sum(terms) * (1 + 1e-12)
    assert sharpness > 1 or found == pytest.approx(sum(terms))


@given(m=st.integers(1, 9000), n=st.integers(1, 9000), k=st.integers(1, 70000), device=st.sampled_from([H100, A100]))
def test_gemm_without_its_additions_is_the_formula_of_programs(m, n, k, device):
    plain = {
        "launch": device.launch_overhead,
        "matrix": device.gemm_efficiency,
        "memory": device.memory_efficiency,
        "tile_penalty": TILE_PENALTY,
        "partial": 1.0,
        **dict.fromkeys(("stores", "split", "droop"), 0.0),
    }
    made = with_values(GemmEstimator(device, sharpness=math.inf), **plain)
    expected = device.launch_overhead + gemm_time(m, n, k, device, "bf16")
    assert made.predict({"m": m, "n": n, "k": k})[0] == pytest.approx(expected, rel=1e-12)


def test_quantising_is_a_kernel_before_a_narrow_product():
    made = with_values(GemmEstimator(H100), quantise=8e-6, quantise_bytes=5.0, memory=0.8)
    shape = {"m": 4096, "n": 128, "k": 12288, "dtype": "fp8"}
    more = made.predict(shape)[0] - made.predict({**shape, "quantise": 0})[0]
    assert more == pytest.approx(8e-6 + 5 * 4096 * 12288 / (0.8 * H100.memory_bandwidth))
    wide = {**shape, "dtype": "bf16"}
    assert made.predict(wide) == made.predict({**wide, "quantise": 0})


@pytest.mark.parametrize(("query", "context"), [(128, 0), (500, 0), (300, 1000), (128, 128), (127, 1), (65, 1000)])
def test_prefill_counts_visible_blocks(query, context):
    """Every block of queries over every block of keys that any of them may see, one by one."""
    made = with_values(PrefillEstimator(H100), launch=1e-6, matrix=0.5, longest=0.0, query_passes=0.0, key_passes=0.0)
    blocks = 0
    for first in range(0, query, 128):
        last = context + min(query, first + 128) - 1
        blocks += len(range(0, last + 1, 128))
    scores = 3 * 2 * blocks * 128 * 128
    per_score = 4 * 128 * 132 / (0.5 * H100.flops("bf16")) + 1 / (16 * H100.clock)
    shape = {"batch": 3, "heads": 2, "kv_heads": 1, "seq_q": query, "seq_kv": query + context}
    arithmetic = scores / 132 * per_score
    traffic = 2 * 128 * 3 * (2 * 2 * query + 2 * (query + context))
    streamed = traffic / (H100.memory_bandwidth * H100.memory_efficiency)
    expected = 1e-6 + (arithmetic**5 + streamed**5) ** 0.2
    assert made.predict(shape)[0] == pytest.approx(expected, rel=1e-9)


def test_queries_of_heads_that_share_keys_fill_a_block():
    """Few new tokens, as where drafts are verified, take as long as one, until a block is full."""
    made = with_values(PrefillEstimator(H20), longest=0.0, query_passes=0.0, key_passes=0.0)
    shape = {"batch": 64, "heads": 64, "kv_heads": 8, "seq_kv": 8192}
    times = made.predict({**shape, "seq_q": np.array([1, 16, 17, 32, 128])}) - made.values_["launch"]
    assert times[1:] / times[0] == pytest.approx([1, 2, 2, 8], rel=0.01)
    own = {**shape, "kv_heads": 64}  # no head shares keys
    assert made.predict({**own, "seq_q": 1}) == pytest.approx(made.predict({**own, "seq_q": 100}), rel=0.01)


def test_a_long_context_of_few_blocks_is_split_among_idle_units():
    made = with_values(PrefillEstimator(H100), longest=1.0)
    shape = {"batch": 1, "heads": 8, "kv_heads": 8, "seq_q": 128, "seq_kv": 2**20}
    alone = 128 * 2**20 * (4 * 128 * 132 / (0.6 * H100.flops("bf16")) + 1 / (16 * H100.clock))  # one block, one unit
    assert made.predict(shape)[0] == pytest.approx(alone * 8 / 132 * 2, rel=0.05)


@given(
    batch=st.integers(1, 64),
    query=st.integers(1, 4000),
    context=st.integers(0, 100000),
    heads=st.sampled_from([1, 8, 32]),
    shared=st.sampled_from([1, 8]),
    more=st.sampled_from(["batch", "seq_kv", "heads", "kv_heads", "head_dim"]),
    name=st.sampled_from(["h100-sxm", "h20-sxm", "mi300x", "l40s"]),
)
def test_prefill_of_more_takes_no_less_and_no_less_than_the_datasheet(batch, query, context, heads, shared, more, name):
    made = with_values(PrefillEstimator(load_device(name)))
    shape = {"batch": batch, "seq_q": query, "seq_kv": query + context, "heads": heads, "head_dim": 128}
    shape["kv_heads"] = max(1, heads // shared)
    larger = {**shape, more: 2 * shape[more]}
    if larger["kv_heads"] <= heads:
        assert made.predict(larger)[0] >= made.predict(shape)[0] * (1 - 1e-9)
    assert made.predict(shape)[0] >= made.roofline(shape)[0] * (1 - 1e-9)


def test_long_prefill_reaches_its_share_of_the_peak():
    made = with_values(PrefillEstimator(H100), matrix=0.6)
    shape = {"batch": 1, "heads": 32, "kv_heads": 8, "seq_q": 131072}
    flops = 2 * 32 * 128 * 131072**2
    products = flops / (0.6 * H100.flops("bf16"))
    exponentials = 32 * 131072**2 / 2 / (16 * 132 * H100.clock)
    assert made.predict(shape)[0] == pytest.approx(products + exponentials, rel=0.01)


def test_decode_of_much_context_is_bound_by_memory():
    made = with_values(DecodeEstimator(H100), memory=0.9)
    shape = {"batch": 64, "heads": 32, "kv_heads": 8, "seq_kv": 65536}
    cache = 64 * 8 * 65536 * 2 * 128 * 2
    assert made.predict(shape)[0] == pytest.approx(cache / (0.9 * H100.memory_bandwidth), rel=0.01)


@pytest.mark.parametrize("device", [H100, H20])
def test_many_query_heads_on_one_key_head_are_bound_by_arithmetic_where_there_is_little(device):
    made = with_values(DecodeEstimator(device))
    shape = {"batch": 128, "heads": 128, "kv_heads": 1, "seq_kv": 32768, "head_dim": 576}
    assert made.predict(shape)[0] >= made.roofline(shape)[0]
    bound = device.flops("bf16") / device.memory_bandwidth < 128
    flops = 4 * 128 * 128 * 32768 * 576
    assert bound == (made.predict(shape)[0] == pytest.approx(flops / device.flops("bf16"), rel=0.01))


def test_decode_takes_keys_in_whole_blocks_and_small_caches_from_the_cache():
    made = with_values(DecodeEstimator(H100), merge=0.0)
    shape = {"batch": 128, "heads": 8, "kv_heads": 1}
    times = made.predict({**shape, "seq_kv": np.array([1, 128, 129])})
    assert times[0] == times[1] < times[2]
    edge = H100.cache_capacity / (128 * 2 * 128 * 2)
    below, above = made.predict({**shape, "seq_kv": np.array([edge * 0.99 // 128 * 128, edge * 1.3])})
    assert above > 1.5 * (below - made.values_["launch"])


def test_streaming_of_much_is_bound_by_memory_and_of_one_row_by_its_block():
    made = with_values(StreamingEstimator(A100), add=0.8, activation=0.5, norm=0.6, row=0.4, launch=1e-6, spread=0.0)
    many = {"m": 65536, "n": 8192, "operation": np.array(["add", "activation", "norm"])}
    traffic = 3 * 2 * 65536 * 8192 / A100.memory_bandwidth
    assert made.predict(many) == pytest.approx(traffic / np.array([0.8, 0.5, 0.6]), rel=1e-3)
    one = made.predict({"m": 1, "n": 28672, "operation": "activation"})[0]
    assert one == pytest.approx(1e-6 + 6 * 28672 * 108 / (0.4 * A100.memory_bandwidth), rel=1e-3)
    assert made.predict({"m": 1, "n": 28672, "operation": "add"})[0] < one / 2


def test_what_no_cache_holds_streams_no_faster_than_memory():
    made = with_values(StreamingEstimator(H100), add=1.2)
    small, large = (made.predict({"m": m, "n": 4096, "operation": "add"})[0] for m in (2048, 2**20))
    assert small < 6 * 2048 * 4096 / H100.memory_bandwidth  # held by the cache
    assert large == pytest.approx((6 * 2**20 * 4096 - H100.cache_capacity) / H100.memory_bandwidth)


@given(
    tokens=st.integers(1, 300),
    top=st.integers(1, 8),
    log_experts=st.integers(3, 7),
    log_ranks=st.integers(0, 7),
    exponent=st.sampled_from([0.0, 1.0, 1.01, 1.2]),
)
def test_loads_of_experts(tokens, top, log_experts, log_ranks, exponent):
    experts, ranks = 2**log_experts, 2 ** min(log_ranks, log_experts)
    rows = expert_rows(tokens, top, experts, ranks, exponent)
    assert rows.shape[1] == experts // ranks
    assert (rows >= 0).all()
    assert (rows == np.round(rows)).all()
    assert (rows <= tokens).all()
    if ranks == 1:
        assert (rows.sum(axis=1) == tokens * top).all()
    floor = tokens * top // experts * experts // ranks if exponent == 0 else tokens * top / ranks
    assert (rows.sum(axis=1) >= floor).all()  # of a power law the rank with most is taken
    assert (rows == expert_rows(tokens, top, experts, ranks, exponent)).all()


def test_choices_of_few_tokens_fall_on_neighbouring_experts():
    """One token, eight of 128 experts, loads of 1.01: the rank that is timed holds all eight."""
    assert (expert_rows(1, 8, 128, 4, 1.01).sum(axis=1) == 8).all()
    assert expert_rows(1, 8, 128, 4, 0.0).sum() == 2  # balanced: two on each of four ranks


def test_balanced_choices_are_evenly_spaced():
    """Token i takes experts i, i + 16, i + 32, ...: counted one by one."""
    counts = np.zeros(128)
    for token, choice in itertools.product(range(40), range(8)):
        counts[(token + 16 * choice) % 128] += 1
    rows = expert_rows(40, 8, 128, 1, 0.0)[0]
    assert sorted(rows) == sorted(counts)


def test_grouped_gemm_by_hand():
    """Two experts of one rank with 200 and 3 rows, tile by tile."""
    made = with_values(GroupedGemmEstimator(H100), row_passes=2.0, expert=0.0, launch=5e-6)
    made_values = made.values_
    shapes = made._shapes({"m": 1, "n": 1024, "k": 2048, "topk": 1, "experts": 2})
    loads = np.array([200.0, 3.0])
    shapes["rows"], shapes["experts in use"] = np.array([203.0]), np.array([2.0])
    for height in (128, 64, 32, 16):
        shapes[f"tiles of {height}"] = np.array([np.ceil(loads / height).sum()])
    unit = H100.memory_bandwidth / 132
    best = math.inf
    for halvings, height in enumerate((128, 64, 32, 16)):
        total = 0.0
        for n, k in ((1024, 2048), (2048, 1024)):
            tiles = sum(math.ceil(load / height) for load in loads) * math.ceil(n / 32)
            rate = made_values["matrix"] * (1 - made_values["tile_penalty"]) ** halvings * H100.flops("bf16") / 132
            arithmetic = math.ceil(tiles / 132) * 2 * height * 32 * k / rate
            traffic = 2 * (2 * n * k + 203 * (n + k)) / (made_values["memory"] * H100.memory_bandwidth)
            alone = 2 * (32 + height) * k / (made_values["unit"] * unit)
            total += (arithmetic**3 + traffic**3 + alone**3) ** (1 / 3)
        best = min(best, total)
    moved = 2 * 2048 * (2 * 203 + 1) / (made_values["memory"] * H100.memory_bandwidth)
    assert made._seconds(shapes, made_values)[0] == pytest.approx(5e-6 + best + moved, rel=1e-12)


@pytest.mark.parametrize("name", ["topk", "ep"])
def test_more_choices_or_ranks_than_experts_are_one_line(name):
    shape = {"m": 1, "n": 8, "k": 8, "topk": 2, "experts": 8, name: 9}
    with pytest.raises(InputError, match=rf"grouped_gemm.{name}\[0\]: 9 .legal: 1 to the 8 experts"):
        GroupedGemmEstimator(H100).roofline(shape)


def test_rooflines_are_of_the_datasheet():
    gemm = GemmEstimator(H100).roofline({"m": 8192, "n": 8192, "k": 8192})[0]
    assert gemm == pytest.approx(2 * 8192**3 / H100.flops("bf16"))
    add = StreamingEstimator(H100).roofline({"m": 1024, "n": 8192, "operation": "add"})[0]
    assert add == pytest.approx(6 * 1024 * 8192 / H100.memory_bandwidth)
