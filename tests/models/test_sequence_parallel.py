"""Sequence-parallel techniques for softmax attention: who works on what, what travels, and what it costs."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import load_cluster
from commlens.hardware.errors import InputError
from commlens.models.attention import block, parts
from commlens.models.blocks import Attend
from commlens.models.build import Builder
from commlens.models.clock import Clock
from commlens.models.groups import process_groups
from commlens.models.kernels import Kernels
from commlens.models.plan import Plan
from commlens.models.predict import estimate, simulate
from commlens.models.routed import Routed
from commlens.models.scenario import Scenario
from commlens.models.search.run import search
from commlens.models.software import load_software
from commlens.models.techniques import parse_technique
from commlens.simulator import run

LAYOUTS = ("contiguous", "zigzag", "striped")
CALLS = (
    {"name": "ulysses"},
    {"name": "ulysses", "packed": "yes"},
    *({"name": "ring_attention", "layout": layout} for layout in LAYOUTS),
    {"name": "usp", "degree": 2},
    {"name": "usp", "degree": 4, "layout": "contiguous"},
)
WIDTH, SIZE = 128, 2.0
SMALL = {
    "model_type": "llama",
    "hidden_size": 48 * 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 48,
    "intermediate_size": 4096,
    "vocab_size": 32000,
}


def ident(call):
    return "-".join(str(value) for value in call.values())


def core_of(ranks, tokens=4096, heads=48, kv_heads=48, **changes):
    """Attention of which each of the ranks holds `tokens` tokens."""
    return Attend(1, tokens, tokens * ranks, heads, kv_heads, WIDTH, WIDTH, **changes)


def emitted(call, ranks, core, cluster="dgx-h100", kind=Builder):
    """One attention in the hands of a technique."""
    cluster = load_cluster(cluster)
    kernels = Kernels(cluster.device, load_software("ideal"), "bf16")
    groups = process_groups(cluster, Plan(cp=ranks))
    if kind is Clock:
        build = Clock(cluster, kernels, groups)
    elif kind is Routed:
        build = Routed("x", cluster, kernels, groups)
    else:
        build = Builder("x", cluster, kernels, 1, groups=groups)
    found = parse_technique(call)
    found.technique.build(core, build, build.start, **found.options)
    return build


def sent(program, kind=None):
    """Bytes the first rank sends."""
    tasks = [task for task in program.tasks if task.rank == 0 and "communication" in task.info]
    return sum(task.info["communication_bytes"] for task in tasks if kind in (None, task.info["communication"]))


def scenario(call, cp=4, phase="prefill", kv_heads=48, length=8192, **plan):
    data = {
        "model": {**SMALL, "num_key_value_heads": kv_heads},
        "cluster": "dgx-h100",
        "workload": {"phase": phase, "sequence_length": length, "global_batch": plan.get("dp", 1)},
        "plan": {"cp": cp, **plan},
        "techniques": [call],
    }
    return Scenario.from_dict(data)


# -- who works on what --------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_all_ranks_and_steps_are_the_triangle(ranks, layout):
    blocks = [part for step in range(ranks) for work in parts(layout, ranks, step) for part in work]
    assert sum(q * k * (0.5 if masked else 1.0) for q, k, masked in blocks) == ranks**2 / 2
    everything = [part for step in range(ranks) for work in parts("all", ranks, step) for part in work]
    assert sum(q * k for q, k, _ in everything) == ranks**2


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_zigzag_and_stripes_share_the_triangle_evenly_and_runs_do_not(ranks):
    def work(layout, rank):
        mine = [part for step in range(ranks) for part in parts(layout, ranks, step)[rank]]
        return sum(q * k * (0.5 if masked else 1.0) for q, k, masked in mine)

    for layout in ("zigzag", "striped"):
        assert {work(layout, rank) for rank in range(ranks)} == {ranks / 2}
    assert [work("contiguous", rank) for rank in range(ranks)] == [rank + 0.5 for rank in range(ranks)]


def token_blocks(layout, ranks, chunk):
    """Scores of every (rank, step), counted token by token."""
    tokens = ranks * chunk
    owner = {
        "contiguous": lambda t: t // chunk,
        "striped": lambda t: t % ranks,
        "zigzag": lambda t: min(2 * t // chunk, 2 * ranks - 1 - 2 * t // chunk),
    }[layout]
    found = np.zeros((ranks, ranks))
    for query, key in product(range(tokens), repeat=2):
        if key <= query:
            found[owner(query), (owner(query) - owner(key)) % ranks] += 1
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_blocks_are_those_of_a_count_token_by_token(layout, ranks):
    chunk = 48
    counted = token_blocks(layout, ranks, chunk)
    for step in range(ranks):
        for rank, work in enumerate(parts(layout, ranks, step)):
            area = sum(q * k * (0.5 if masked else 1.0) for q, k, masked in work) * chunk**2
            assert counted[rank, step] == pytest.approx(area, abs=chunk)  # the diagonal is not counted


# -- what travels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("kv_heads", [48, 12, 24])
@pytest.mark.parametrize("ranks", [2, 3, 4, 6])
def test_ulysses_sends_its_share_of_all_tensors(ranks, kv_heads, direction):
    core = core_of(ranks, kv_heads=kv_heads, direction=direction)
    volume = (2 * 48 + 2 * kv_heads) * WIDTH * core.query * (ranks - 1) / ranks * SIZE
    assert sent(emitted({"name": "ulysses"}, ranks, core).program) == pytest.approx(volume)
    assert sent(emitted({"name": "ulysses", "packed": "yes"}, ranks, core).program) == pytest.approx(volume)


def test_ulysses_moves_as_much_when_sequence_and_ranks_grow_together():
    counts = (2, 4, 8, 16)
    found = [
        sent(emitted({"name": "ulysses"}, n, core_of(n), {"preset": "dgx-h100", "nodes": 2}).program) for n in counts
    ]
    assert len({round(size * n / (n - 1)) for size, n in zip(found, counts, strict=True)}) == 1


def test_key_heads_fewer_than_the_ranks_are_sent_to_each_of_them():
    found = sent(emitted({"name": "ulysses"}, 8, core_of(8, kv_heads=1)).program)
    assert found == pytest.approx((2 * 48 + 2 * 8) * WIDTH * 4096 * 7 / 8 * SIZE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kv_heads", [48, 6, 1])
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_passes_keys_and_values_to_all_others(ranks, kv_heads, layout):
    call = {"name": "ring_attention", "layout": layout}
    block = 2 * kv_heads * WIDTH * 4096
    forward = sent(emitted(call, ranks, core_of(ranks, kv_heads=kv_heads)).program)
    assert forward == pytest.approx(block * (ranks - 1) * SIZE)
    backward = sent(emitted(call, ranks, core_of(ranks, kv_heads=kv_heads, direction="backward")).program)
    # Keys and values once more, their gradients in fp32 all the way round.
    assert backward == pytest.approx(block * ((ranks - 1) * SIZE + ranks * 4.0))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_ends_of_usp_are_ulysses_and_the_ring(direction):
    core = core_of(8, direction=direction)
    pairs = (
        ({"name": "usp", "degree": 8}, {"name": "ulysses"}),
        ({"name": "usp", "degree": 1}, {"name": "ring_attention"}),
    )
    for one, other in pairs:
        mine, its = emitted(one, 8, core).program, emitted(other, 8, core).program
        assert sent(mine) == pytest.approx(sent(its))
        assert run(mine).makespan == pytest.approx(run(its).makespan)


@pytest.mark.parametrize("degree", [2, 3, 4, 6])
def test_usp_exchanges_over_its_rows_and_passes_on_over_its_columns(degree):
    program = emitted({"name": "usp", "degree": degree}, 12, core_of(12), {"preset": "dgx-h100", "nodes": 2}).program
    tokens = 48 * WIDTH * 4096 * SIZE
    assert sent(program, "all_to_all") == pytest.approx(4 * tokens * (degree - 1) / degree)
    assert sent(program, "send_recv") == pytest.approx(2 * tokens * (12 / degree - 1))


@pytest.mark.parametrize(
    ("call", "ranks", "named"),
    [
        ({"name": "ulysses"}, 5, "5 ranks do not divide the 48 query heads"),
        ({"name": "usp", "degree": 5}, 10, "5 ranks do not divide"),
        ({"name": "usp", "degree": 3}, 8, "usp.degree: 3 does not divide plan.cp 8"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_its_name(call, ranks, named):
    with pytest.raises(InputError, match=named):
        emitted(call, ranks, core_of(ranks), {"preset": "dgx-h100", "nodes": 2})


# -- what it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_runs_of_tokens_take_what_the_last_rank_does(ranks):
    """Where nothing else costs, (2 P - 1) / P of what even parts take; half the square where nothing is masked."""

    def attention(layout, causal=True):
        core = core_of(ranks, tokens=65536, causal=causal)
        tasks = emitted({"name": "ring_attention", "layout": layout}, ranks, core).program.tasks
        return sum(task.duration for task in tasks if task.name.startswith("attention"))

    assert attention("contiguous") / attention("zigzag") == pytest.approx((2 * ranks - 1) / ranks, rel=1e-6)
    assert attention("striped") == pytest.approx(attention("zigzag"), rel=1e-6)
    assert attention("zigzag", causal=False) == pytest.approx(2 * attention("zigzag"), rel=1e-6)


def test_a_ring_hides_behind_long_attention_and_an_exchange_does_not():
    for tokens, hidden in ((32768, True), (256, False)):
        ring = run(emitted({"name": "ring_attention"}, 8, core_of(8, tokens=tokens)).program)
        share = ring.exposed("communication") / ring.busy("communication")
        assert (share < 0.2) == hidden
    exchange = run(emitted({"name": "ulysses"}, 8, core_of(8, tokens=32768)).program)
    assert exchange.exposed("communication") == pytest.approx(exchange.busy("communication"))


def test_few_key_heads_help_the_ring_more_than_the_exchange():
    """A ring passes on keys and values only; an exchange moves queries and outputs besides."""
    ring, exchange = (
        [sent(emitted({"name": name}, 8, core_of(8, kv_heads=heads)).program) for heads in (48, 8)]
        for name in ("ring_attention", "ulysses")
    )
    assert ring[0] / ring[1] == pytest.approx(6)
    assert exchange[0] / exchange[1] == pytest.approx(4 * 48 / (2 * 48 + 2 * 8))
    assert ring[0] > exchange[0]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(CALLS),
    st.sampled_from(["forward", "backward"]),
    st.integers(64, 20000),
    st.sampled_from([1, 6, 48]),
    st.booleans(),
)
def test_half_the_bandwidth_is_never_faster(call, direction, tokens, kv_heads, causal):
    core = core_of(4, tokens=tokens, kv_heads=kv_heads, direction=direction, causal=causal)
    times = [
        run(
            emitted(call, 4, core, {"preset": "dgx-h100", "link": {"preset": "nvlink4", "bandwidth": b}}).program
        ).makespan
        for b in ("450 GB/s", "225 GB/s")
    ]
    assert times[1] >= times[0] * (1 - 1e-9)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("call", CALLS, ids=ident)
def test_a_clock_tells_what_a_played_program_takes(call, direction):
    core = core_of(4, tokens=8192, kv_heads=8, direction=direction)
    played = run(emitted(call, 4, core).program).makespan
    assert float(emitted(call, 4, core, kind=Clock).end()) == pytest.approx(played, rel=0.05)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("call", CALLS, ids=ident)
def test_many_plans_at_once_cost_what_each_does(call, direction):
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 2})
    kernels = Kernels(cluster.device, load_software("megatron-core"), "bf16", training=True)
    found = parse_technique(call)
    sizes = np.array([1, 4, 8, 4, 16])

    def costed(cp, batch):
        clock = Clock(cluster, kernels, process_groups(cluster, Plan(cp=cp)))
        clock.scheme = lambda core, build, after: found.technique.build(core, build, after, **found.options)
        clock.compute((Attend(batch, 32768 / cp, 32768, 48, 8, WIDTH, WIDTH, direction=direction),), ())
        return clock.cost()

    batches = np.array([1, 1, 2, 3, 1])
    every = costed(sizes, batches)
    for index, (size, batch) in enumerate(zip(sizes, batches, strict=True)):
        one = costed(int(size), int(batch))
        for field in dataclasses.fields(one):
            if field.name != "sent":
                value = np.broadcast_to(getattr(every, field.name), sizes.shape)[index]
                assert value == pytest.approx(float(getattr(one, field.name)), rel=1e-9), field.name
        for kind, amount in one.sent.items():
            assert every.sent[kind][index] == pytest.approx(float(amount))


@pytest.mark.parametrize("call", [call for call in CALLS if call.get("layout") != "contiguous"], ids=ident)
def test_one_rank_stands_for_all(call):
    core = core_of(4, tokens=8192, causal=True)
    folded, every = (run(emitted(call, 4, core, kind=kind).program).makespan for kind in (Builder, Routed))
    assert folded == pytest.approx(every, rel=0.02)


# -- in a scenario ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prefill", "training"])
@pytest.mark.parametrize("kv_heads", [48, 8, 1])
@pytest.mark.parametrize("cp", [3, 4])
@pytest.mark.parametrize("name", ["ulysses", "ring_attention", "usp", "megatron_sp", "tokenring"])
def test_every_scheme_runs_every_kind_of_heads(name, cp, kv_heads, phase):
    call = {"name": name, "degree": 3 if cp == 3 else 2} if name == "usp" else {"name": name}
    # Gradients added up apart: what they take from a small model's kernels is no matter of attention.
    case = scenario(call, cp=cp, kv_heads=kv_heads, phase=phase, length=8191, overlap=[])
    exact, quick = simulate(case), estimate(case)
    assert exact.time_s > 0
    assert quick.time_s == pytest.approx(exact.time_s, rel=0.03)
    assert sum(exact.communication_bytes.values()) > 0


@pytest.mark.parametrize("name", ["ulysses", "megatron_sp"])
def test_estimate_is_simulate_where_nothing_overlaps(name):
    case = scenario({"name": name})
    assert estimate(case).time_s == pytest.approx(simulate(case).time_s, rel=1e-9)


def test_megatron_sp_makes_tensor_parallel_ranks_of_context_parallel_ones():
    plan = scenario({"name": "megatron_sp"}, cp=4, tp=2, phase="training").plan
    assert (plan.tp, plan.cp, plan.etp, plan.sequence_parallel) == (8, 1, 8, True)
    as_asked = scenario({"name": "baseline"}, cp=1, tp=8, sequence_parallel=True, phase="training")
    mine = scenario({"name": "megatron_sp"}, cp=4, tp=2, phase="training")
    assert simulate(mine).time_s == simulate(as_asked).time_s
    with pytest.raises(InputError, match=r"tp: 5 = tp 1 x cp 5 does not divide the 48 attention heads"):
        scenario({"name": "megatron_sp"}, cp=5)


@pytest.mark.parametrize("phase", ["decode", "generate"])
def test_sequences_are_divided_in_training_and_prefill_only(phase):
    with pytest.raises(InputError, match=r"plan.cp: 4 is modelled in training and prefill only"):
        scenario({"name": "ulysses"}, phase=phase)


def test_a_rank_of_a_divided_prefill_does_its_share():
    whole, shared = (simulate(scenario({"name": "ulysses"}, cp=cp, length=65536)) for cp in (1, 4))
    assert shared.compute_s == pytest.approx(whole.compute_s / 4, rel=0.1)
    assert shared.model_flops_per_device == pytest.approx(whole.model_flops_per_device / 4)


@pytest.mark.parametrize("call", [{"name": "ulysses"}, {"name": "ring_attention"}], ids=ident)
def test_a_search_finds_what_the_estimate_says(call):
    case = scenario(call, cp=2, dp=4, phase="training", length=16384)
    frame = search(case, devices=8, keep=5, space={"cp": [1, 2, 4], "pp": 1, "schedule": "1f1b", "offload": "none"})
    assert len(frame)
    for _, row in frame.head(3).iterrows():
        keys = ("tp", "pp", "cp", "dp", "zero", "recompute", "sequence_parallel")
        plan = {f"plan.{key}": row[key] if isinstance(row[key], str | bool) else int(row[key]) for key in keys}
        plan["plan.sequence_parallel"] = bool(row["sequence_parallel"])
        changed = case.replace({**plan, "workload.micro_batch": int(row["micro_batch"])})
        assert estimate(changed).time_s == pytest.approx(row["time_s"], rel=1e-6)


@pytest.mark.parametrize("window", [512, 4096, 6000])
def test_a_ring_goes_no_further_than_a_window_of_attention(window):
    core = dataclasses.replace(core_of(8), context=window)
    program = emitted({"name": "ring_attention"}, 8, core).program
    reach = -(-window // 4096)
    assert sent(program) == pytest.approx(reach * 2 * 48 * WIDTH * 4096 * SIZE)
    whole = Attend(1, 4096, window, 48, 48, WIDTH, WIDTH, whole=8 * 4096)
    kernels = Kernels(load_cluster("dgx-h100").device, load_software("ideal"), "bf16")
    attention = sum(task.info["flops"] for task in program.tasks if task.name.startswith("attention"))
    assert attention == pytest.approx(sum(kernel.flops for kernel in block(whole, kernels)))


def test_on_a_slow_link_a_clock_counts_keys_and_their_gradients_one_after_the_other():
    core = core_of(8, tokens=1024, direction="backward")
    slow = {"preset": "dgx-h100", "link": {"preset": "nvlink4", "bandwidth": "20 GB/s"}}
    played = run(emitted({"name": "ring_attention"}, 8, core, slow).program).makespan
    assert float(emitted({"name": "ring_attention"}, 8, core, slow, Clock).end()) == pytest.approx(played, rel=0.02)
