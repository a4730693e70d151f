"""Techniques of family moe against bytes counted by hand, message by message, and against each other."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

import commlens as cl
from commlens.models.techniques import registry
from commlens.simulator.expert_exchange import FP8_BYTES

HIDDEN, LAYERS, LENGTH, BATCH = 512, 2, 128, 2
BF16 = 2
NODE = 8
MODEL = {
    "model_type": "gpt2_moe", "n_layer": LAYERS, "n_embd": HIDDEN, "n_head": 8, "n_inner": 2048, "vocab_size": 4096,
    "n_positions": 4096, "num_local_experts": 16, "num_experts_per_tok": 3, "moe_intermediate_size": 256,
}  # fmt: skip
SHARED = {
    "model_type": "deepseek_v3", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "first_k_dense_replace": 0,
    "num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": None, "kv_lora_rank": 64, "vocab_size": 4096,
    "n_routed_experts": 16, "num_experts_per_tok": 3, "n_shared_experts": 2, "moe_intermediate_size": 256,
}  # fmt: skip
HIERARCHICAL = {"name": "hierarchical_all_to_all"}
EVERY_COPY = HIERARCHICAL | {"once": "no"}
WAYS = [
    "baseline", HIERARCHICAL, EVERY_COPY, "deepep", {"name": "deepep", "kernels": "low_latency"},
    {"name": "deepep", "kernels": "elastic"}, "tutel", {"name": "tutel", "degree": 2, "exchange": "flat"}, "exflow",
    "no_all_to_all", "bigmac", "two_batch_overlap",
]  # fmt: skip
IN_TRAINING = [way for way in WAYS if way != "exflow"]


def case(techniques=(), phase="prefill", ep=16, model=None, nodes=2, plan=None, routing=None, cluster=None, **work):
    some = [techniques] if isinstance(techniques, str | dict) else list(techniques)
    workload = {"phase": phase, "sequence_length": LENGTH, "global_batch": BATCH * ep, "micro_batch": BATCH, **work}
    if routing:
        workload["routing"] = routing
    return cl.Scenario.from_dict(
        {
            "model": {**MODEL, **(model or {})} if "model_type" not in (model or {}) else model,
            "cluster": {"preset": "dgx-h100", "nodes": nodes, **(cluster or {})},
            "plan": {"dp": ep, "ep": ep, **(plan or {})},
            "workload": workload,
            "techniques": some,
        }
    )


def sent(scenario, kind="all_to_all"):
    return cl.estimate(scenario).communication_bytes.get(kind, 0.0)


@cache
def hops(ep, experts, top_k, once):
    """Messages a rank sends in one direction of a two-level exchange, per token: (between nodes, inside them).

    Every choice of experts is tried: from its rank a token goes to the rank of the same place in each other node,
    and from there to the devices of that node.
    """
    local, own = min(ep, NODE), experts // ep
    between = inside = 0
    choices = list(itertools.combinations(range(experts), top_k))
    for chosen in choices:
        devices = [expert // own for expert in chosen]
        for source in range(ep):
            place = source % local
            reached = [device // local for device in devices]
            targets = devices
            if once == "yes":
                reached, targets = set(reached), set(devices)
            between += sum(node != source // local for node in reached)
            inside += sum(device % local != place for device in targets)
    return between / len(choices) / ep, inside / len(choices) / ep


TOKENS = BATCH * LENGTH


@pytest.mark.parametrize("engine", [cl.estimate, cl.simulate])
@pytest.mark.parametrize(("phase", "ways"), [("prefill", 2), ("training", 4)])
@pytest.mark.parametrize(("ep", "nodes"), [(2, 1), (8, 1), (16, 2)])
def test_flat_sends_every_copy_but_the_rank_s_own(engine, phase, ways, ep, nodes):
    found = engine(case(phase=phase, ep=ep, nodes=nodes)).communication_bytes["all_to_all"]
    assert found == pytest.approx(ways * LAYERS * TOKENS * 3 * HIDDEN * BF16 * (ep - 1) / ep)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_step_sends_for_every_micro_batch(micro_batches):
    one = case(phase="training", global_batch=16 * BATCH * micro_batches)
    assert sent(one) == pytest.approx(micro_batches * sent(case(phase="training")))


def test_recomputation_goes_there_again_and_back_again_only_if_something_reads_it():
    flat, full = (sent(case(phase="training", plan={"recompute": how})) for how in ("none", "full"))
    assert full == pytest.approx(flat * 6 / 4)
    early = case(phase="training", plan={"recompute": "full"}).replace({"software": "torchtitan-compile"})
    assert sent(early) == pytest.approx(flat * 5 / 4)
    selective = case(phase="training", plan={"recompute": "selective"})
    assert sent(selective) == pytest.approx(flat)


@pytest.mark.parametrize("once", ["yes", "no"])
@pytest.mark.parametrize(("ep", "nodes"), [(4, 1), (8, 1), (16, 2)])
@pytest.mark.parametrize("top_k", [1, 3])
def test_hierarchical_sends_what_two_levels_of_messages_do(once, ep, nodes, top_k):
    scenario = case(HIERARCHICAL | {"once": once}, ep=ep, nodes=nodes, model={"num_experts_per_tok": top_k})
    messages = sum(hops(ep, 16, top_k, once))
    assert sent(scenario) == pytest.approx(2 * LAYERS * TOKENS * HIDDEN * BF16 * messages)


@pytest.mark.parametrize("phase", ["prefill", "decode", "training"])
def test_inside_one_node_every_copy_in_two_levels_is_flat(phase):
    flat, levels = (cl.simulate(case(way, phase, ep=8, nodes=1)) for way in ("baseline", EVERY_COPY))
    assert levels.time_s == pytest.approx(flat.time_s)
    assert levels.communication_bytes == pytest.approx(flat.communication_bytes)


@pytest.mark.parametrize("kernels", ["normal", "elastic"])
@pytest.mark.parametrize(("tokens", "there"), [("bf16", BF16), ("fp8", FP8_BYTES)])
@pytest.mark.parametrize("ep", [8, 16])
def test_deepep_sends_a_token_once_to_a_node_and_rank(kernels, tokens, there, ep):
    scenario = case({"name": "deepep", "kernels": kernels, "tokens": tokens}, ep=ep)
    messages = sum(hops(ep, 16, 3, "yes"))
    assert sent(scenario) == pytest.approx(LAYERS * TOKENS * HIDDEN * (there + BF16) * messages)


def test_deepep_of_low_latency_sends_every_copy():
    scenario = case({"name": "deepep", "kernels": "low_latency", "tokens": "bf16"}, phase="decode")
    assert sent(scenario) == pytest.approx(sent(case(phase="decode")))


def test_deepep_takes_the_products_format():
    dense = sent(case("deepep", dtype="bf16"))
    narrow = sent(case("deepep", dtype="fp8"))
    assert narrow == pytest.approx(dense * (FP8_BYTES + BF16) / (2 * BF16))


@pytest.mark.parametrize("degree", [1, 2, 5])
@pytest.mark.parametrize(("exchange", "whole"), [("hierarchical", EVERY_COPY), ("flat", "baseline")])
@pytest.mark.parametrize("phase", ["prefill", "training"])
def test_chunks_move_the_same_bytes(degree, exchange, whole, phase):
    chunked = case({"name": "tutel", "degree": degree, "exchange": exchange}, phase)
    assert sent(chunked) == pytest.approx(sent(case(whole, phase)))


@pytest.mark.parametrize(("exchange", "whole"), [("hierarchical", EVERY_COPY), ("flat", "baseline")])
@pytest.mark.parametrize("phase", ["prefill", "training"])
def test_one_chunk_is_no_chunk(exchange, whole, phase):
    one, other = (
        cl.simulate(case(way, phase)) for way in ({"name": "tutel", "degree": 1, "exchange": exchange}, whole)
    )
    assert one.time_s == pytest.approx(other.time_s)


def test_chunks_hide_exchanges_where_these_are_long():
    """Few experts of wide products on a slow network: compute and exchange are both long."""
    big = {"num_local_experts": 16, "n_embd": 4096, "n_head": 32, "moe_intermediate_size": 14336}
    slow = {"nic": {"preset": "ndr400", "bandwidth": "100 Gbit/s"}}
    whole, chunked = (
        cl.simulate(case(way, model=big, cluster=slow, sequence_length=4096)).time_s
        for way in ("baseline", {"name": "tutel", "degree": 4, "exchange": "flat"})
    )
    bound = cl.simulate(case("no_all_to_all", model=big, cluster=slow, sequence_length=4096)).time_s
    assert bound < chunked < whole


@pytest.mark.parametrize("etp", [1, 2])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_chunk_is_there_before_it_is_computed(degree, etp):
    """On a network so slow that everything waits for it; tensor-parallel experts gather their chunks besides."""
    plan, slow = {"tp": 2, "etp": etp, "dp": 8, "ep": 8}, {"nic": {"preset": "ndr400", "bandwidth": "1 Gbit/s"}}
    scenario = case({"name": "tutel", "degree": degree, "exchange": "flat"}, plan=plan, cluster=slow, global_batch=16)
    trace = cl.simulate(scenario).traces["prefill"]
    ends = {name: [trace.end[i] for i in which] for name, which in _by_name(trace.program).items()}
    starts = {name: [trace.start[i] for i in which] for name, which in _by_name(trace.program).items()}
    each = 2 * degree  # exchanges of a layer: the way of the first two chunks, then one there for each one home
    for layer in range(LAYERS):
        some = slice(layer * each, (layer + 1) * each)
        there, home = _ways(ends["all_to_all"][some], degree), _ways(starts["all_to_all"][some], degree)
        for chunk in range(degree):
            number = layer * degree + chunk
            assert starts["expert up"][number] >= there[0][chunk]
            assert home[1][chunk] >= ends["expert down"][number]


def _by_name(program):
    found = {}
    for index, task in enumerate(program.tasks):
        found.setdefault(task.name, []).append(index)
    return found


def _ways(exchanges, degree):
    """Exchanges of a layer in the order they are launched, as (those there, those home)."""
    order = ["there"]
    for chunk in range(degree):
        order += ["there"] * (chunk + 1 < degree) + ["home"] * (chunk > 0)
    order.append("home")
    return [[one for one, way in zip(exchanges, order, strict=True) if way == which] for which in ("there", "home")]


# ExFlow


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("ep", [4, 16])
def test_exflow_leaves_results_with_the_first_expert(top_k, ep):
    """Every choice of experts, from every device that the token may be on."""
    experts, moved = 16, 0
    choices = list(itertools.permutations(range(experts), top_k))
    for chosen in choices:
        first, *others = (expert // (experts // ep) for expert in chosen)
        for place in range(ep):
            moved += sum(device != place for device in (first, *others))
            moved += sum(device != first for device in others)
    moved /= len(choices) * ep
    scenario = case("exflow", "decode", ep=ep, model={"num_experts_per_tok": top_k})
    assert sent(scenario) == pytest.approx(LAYERS * BATCH * HIDDEN * BF16 * moved)
    cache_bytes = BATCH * LAYERS * 2 * HIDDEN * BF16
    assert sent(scenario, "all_gather") == pytest.approx((ep - 1) * cache_bytes)


def test_exflow_has_one_exchange_a_layer_with_one_expert_a_token():
    def exchanges(way, top_k):
        scenario = case(way, "decode", model={"num_experts_per_tok": top_k})
        program = cl.simulate(scenario).traces["decode"].program
        return sum(task.info.get("communication") == "all_to_all" for task in program.tasks)

    assert exchanges("baseline", 1) == 2 * LAYERS
    assert exchanges("exflow", 1) == LAYERS
    assert exchanges("exflow", 2) == 2 * LAYERS


@pytest.mark.parametrize(("same_device", "same_node"), [(0.0, 0.0), (0.3, 0.6), (1.0, 1.0)])
def test_exflow_sends_what_affinity_leaves(same_device, same_node):
    routing = {"same_device": same_device, "same_node": same_node}
    scenario = case("exflow", "decode", model={"num_experts_per_tok": 1}, routing=routing)
    assert sent(scenario) == pytest.approx(LAYERS * BATCH * HIDDEN * BF16 * (1 - same_device), abs=1e-9)


def test_exflow_publishes_numbers_of_tokens():
    scenario = case({"name": "exflow", "publish": "tokens"}, "decode")
    assert sent(scenario, "all_gather") == pytest.approx(15 * BATCH * 4)


def test_exflow_processes_prompts_at_home():
    """Unevenness costs a prompt the same with and without."""
    for imbalance in (1.0, 3.0):
        base, found = (cl.estimate(case(way, routing={"imbalance": imbalance})) for way in ("baseline", "exflow"))
        published = found.communication_s - base.communication_s
        assert found.time_s == pytest.approx(base.time_s + published)
        assert sent(case("exflow")) == pytest.approx(sent(case()))


def test_exflow_holds_all_context_on_every_device():
    base, found = (cl.estimate(case(way, "decode")).memory_bytes for way in ("baseline", "exflow"))
    assert found["kv_cache"] == pytest.approx(16 * base["kv_cache"])
    assert found["total"] - base["total"] == pytest.approx(15 * base["kv_cache"])


# BigMac


@pytest.mark.parametrize("phase", ["prefill", "decode", "training"])
@pytest.mark.parametrize("r", [0.25, 0.5, 1.0])
def test_bigmac_sends_a_part_of_the_width(phase, r):
    assert sent(case({"name": "bigmac", "r": r}, phase)) == pytest.approx(r * sent(case(phase=phase)))


@pytest.mark.parametrize("way", ["hierarchical_all_to_all", "tutel", "deepep", "two_batch_overlap"])
def test_bigmac_goes_with_any_way(way):
    both = case(["bigmac", way], phase="training")
    assert sent(both) == pytest.approx(sent(case(way, phase="training")) / 4)
    assert "bigmac" in cl.estimate(both).technique
    assert way in cl.estimate(both).technique


@pytest.mark.parametrize("model", [{}, SHARED], ids=["gpt", "shared experts"])
@pytest.mark.parametrize("r", [0.25, 0.5])
def test_bigmac_adds_two_projections_and_nothing_else(model, r):
    base, changed = (case(way, model=model).model for way in ((), {"name": "bigmac", "r": r}))
    projections = 2 * r * HIDDEN**2
    biases = base.mlp_bias * base.experts * (HIDDEN * (r - 1) + base.expert_ffn * (1 / r - 1))
    more = LAYERS * (projections + biases)
    assert changed.parameters() - base.parameters() == pytest.approx(more)
    assert changed.expert_width == r * HIDDEN
    base, changed = (
        cl.estimate(case(way, model=model)).model_flops_per_device for way in ((), {"name": "bigmac", "r": r})
    )
    active = LAYERS * (projections + biases * 3 / 16)
    assert changed - base == pytest.approx(2 * TOKENS * active, rel=1e-6)


def test_bigmac_of_the_whole_width_multiplies_what_the_model_does_and_projects():
    base, changed = (
        cl.simulate(case(way, "prefill")).traces["prefill"].program.tasks for way in ((), {"name": "bigmac", "r": 1.0})
    )
    flops = [sum(float(task.info.get("flops", 0.0)) for task in tasks) for tasks in (base, changed)]
    assert flops[1] - flops[0] == pytest.approx(LAYERS * 2 * TOKENS * 2 * HIDDEN**2)


# What holds of all


@pytest.mark.parametrize("way", IN_TRAINING, ids=str)
@pytest.mark.parametrize("model", [{}, SHARED], ids=["gpt", "shared experts"])
def test_no_way_is_faster_than_none(way, model):
    base = ["no_all_to_all", *(["bigmac"] if way == "bigmac" else [])]
    for phase in ("prefill", "training"):
        bound, found = (cl.simulate(case(some, phase, model=model)).time_s for some in (base, way))
        assert found >= bound * (1 - 1e-9)


@pytest.mark.parametrize("phase", ["prefill", "training"])
@pytest.mark.parametrize("inner", [(), "tutel", HIERARCHICAL], ids=str)
def test_two_batches_move_the_same_bytes(phase, inner):
    """In training the layers' alone; gradients are added up once."""
    some = [inner] if inner else []
    base, halves = (cl.simulate(case(ways, phase)) for ways in (some, ["two_batch_overlap", *some]))
    assert halves.communication_bytes == pytest.approx(base.communication_bytes)


@pytest.mark.parametrize("name", ["hierarchical_all_to_all", "deepep"])
@pytest.mark.parametrize("phase", ["prefill", "training"])
def test_shared_experts_hide_no_more_than_they_take(name, phase):
    plain, beside = (
        cl.simulate(case({"name": name, "overlap": how}, phase, model=SHARED, sequence_length=2048))
        for how in ("none", "shared")
    )
    program = cl.simulate(case(name, "prefill", model=SHARED, sequence_length=2048)).traces["prefill"].program
    shared = sum(
        program.durations[i] + program.latencies[i]
        for i, task in enumerate(program.tasks)
        if task.name.startswith("shared expert") or task.name == "activation"
    )
    times = 1 if phase == "prefill" else 4  # a backward pass takes about two of a forward one
    assert 0 < plain.time_s - beside.time_s < shared * times
    assert beside.communication_bytes == pytest.approx(plain.communication_bytes)


def test_overlap_without_shared_experts_changes_nothing():
    for name in ("hierarchical_all_to_all", "deepep"):
        plain, beside = (cl.simulate(case({"name": name, "overlap": how})).time_s for how in ("none", "shared"))
        assert beside == plain


@pytest.mark.parametrize("way", [*WAYS, ["bigmac", "exflow"], ["two_batch_overlap", "tutel"]], ids=str)
@pytest.mark.parametrize("phase", ["prefill", "decode", "training"])
def test_an_imbalance_costs_time_and_no_bytes(way, phase):
    if phase == "training" and "exflow" in way:
        pytest.skip("is for inference")
    even, uneven = (cl.estimate(case(way, phase, routing={"imbalance": f}, sequence_length=1024)) for f in (1.0, 4.0))
    assert uneven.time_s > even.time_s
    if "exflow" in way and phase == "decode":  # bytes are of the busiest rank, which has all work
        even_bytes = {kind: 4 * size for kind, size in even.communication_bytes.items()}
        assert uneven.communication_bytes == pytest.approx(even_bytes)
    else:
        assert uneven.communication_bytes == pytest.approx(even.communication_bytes)


@pytest.mark.parametrize("way", ["baseline", HIERARCHICAL, EVERY_COPY, "deepep", "tutel"], ids=str)
def test_an_imbalance_sends_no_more_through_the_adapters(way):
    found = []
    for imbalance in (1.0, 3.0):
        tasks = cl.simulate(case(way, routing={"imbalance": imbalance})).traces["prefill"].program.tasks
        found.append([sum(task.demand.get(port, 0.0) for task in tasks) for port in ("nic[0]", "link[0]")])
    assert found[0] == pytest.approx(found[1])
    assert min(found[0]) > 0


@pytest.mark.parametrize("way", ["baseline", HIERARCHICAL, EVERY_COPY, "deepep", "tutel"], ids=str)
@pytest.mark.parametrize("capacity", [0.5, 1.0, 2.5])
def test_capacity_pads_and_evens_out(way, capacity):
    base, padded = (
        cl.estimate(case(way, routing=some))
        for some in ({"imbalance": 1.0, "skew": 1.5}, {"capacity": capacity, "skew": 1.5})
    )
    assert padded.communication_bytes["all_to_all"] == pytest.approx(capacity * base.communication_bytes["all_to_all"])


@pytest.mark.parametrize("way", [*WAYS, ["bigmac", "tutel"]], ids=str)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_ways_that_do_not_overlap_take_what_their_estimate_says(way, phase):
    found, expected = (engine(case(way, phase)) for engine in (cl.simulate, cl.estimate))
    assert found.communication_bytes == pytest.approx(expected.communication_bytes)
    if "tutel" in str(way) or way == "two_batch_overlap":
        assert found.time_s >= expected.time_s * (1 - 1e-9)
    else:
        assert found.time_s == pytest.approx(expected.time_s, rel=1e-9)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_slower_network_is_never_faster(way):
    times = [
        cl.estimate(case(way, cluster={"nic": {"preset": "ndr400", "bandwidth": f"{rate} Gbit/s"}})).time_s
        for rate in (400, 200, 50)
    ]
    assert times[0] <= times[1] <= times[2]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_experts_that_are_not_divided_send_nothing(way, phase):
    found = cl.simulate(case(way, phase, ep=1, nodes=1, plan={"dp": 1, "ep": 1}))
    assert not found.communication_bytes


# Tensor-parallel experts inside an expert-parallel group


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_tensor_parallel_experts_gather_copies_and_scatter_sums(sequence_parallel):
    plan = {"tp": 4, "etp": 4, "dp": 4, "ep": 4, "sequence_parallel": sequence_parallel}
    found = cl.estimate(case(plan=plan, ep=4, global_batch=8)).communication_bytes
    copies = TOKENS / 4 * 3 * HIDDEN * BF16
    stream = TOKENS * HIDDEN * BF16 * 3 / 4
    assert found["all_to_all"] == pytest.approx(2 * LAYERS * copies * 3 / 4)
    inside = LAYERS * copies * 3  # those of four ranks gathered, of which each sends its own to three
    if sequence_parallel:  # attention gathers and scatters, and the output projection gathers
        assert found["reduce_scatter"] == pytest.approx(LAYERS * stream + inside)
        gathers = LAYERS * stream + inside
        assert found["all_gather"] == pytest.approx(gathers + HIDDEN * BF16 * BATCH * 3 / 4, rel=0.01)
    else:  # attention adds up; every rank gets all tokens back
        assert found["all_reduce"] == pytest.approx(2 * LAYERS * stream)
        assert found["reduce_scatter"] == pytest.approx(inside)
        assert found["all_gather"] == pytest.approx(LAYERS * stream + inside)


# Many plans at once


SPACE = {
    "schedule": "1f1b", "offload": "none", "zero": 1, "cp": 1, "pp": 1, "tp": [1, 2], "micro_batch": [1, 4],
    "recompute": "none",
}  # fmt: skip


@pytest.mark.parametrize("way", [*IN_TRAINING, ["bigmac", "deepep"], ["two_batch_overlap", HIERARCHICAL]], ids=str)
def test_plans_at_once_are_plans_one_at_a_time(way):
    """Every division of the experts, beside and across tensor-parallel ranks, and none."""
    from commlens.models.search.table import planned

    scenario = case(way, "training", global_batch=64)
    frame = cl.search(scenario, 16, keep=10_000, space=SPACE)
    assert frame["ep"].nunique() == 5
    picked = frame.sort_values(["tp", "ep", "etp", "micro_batch", "sequence_parallel"]).iloc[::5]
    for _, row in picked.iterrows():
        alone = cl.estimate(planned(scenario, row))
        # Of many products each operand is read once, of a single one what its cache leaves to be read again.
        assert row["time_s"] == pytest.approx(alone.time_s, rel=1e-3)
        assert row["memory"] == pytest.approx(alone.memory_bytes["total"])


def test_search_of_latent_attention_and_shared_experts():
    from commlens.models.search.table import planned

    scenario = case("deepep", "training", model=SHARED, global_batch=64)
    frame = cl.search(scenario, 16, space={**SPACE, "recompute": ["none", "full"]})
    for _, row in frame.iloc[::10].iterrows():
        assert row["time_s"] == pytest.approx(cl.estimate(planned(scenario, row)).time_s, rel=1e-3)


def test_search_leaves_out_micro_batches_that_cannot_be_halved():
    scenario = case("two_batch_overlap", "training", global_batch=64)
    frame = cl.search(scenario, 16, keep=10_000, space={**SPACE, "tp": 1, "micro_batch": [1, 2, 3, 4]})
    assert sorted(frame["micro_batch"].unique()) == [2, 4]
    with pytest.raises(cl.InputError, match=r"space: micro_batch: 1: two_batch_overlap needs two sequences a pass"):
        cl.search(scenario, 16, space={"micro_batch": 1})


# Bad input


@pytest.mark.parametrize("name", [name for name, known in registry().items() if known.family == "moe"])
def test_dense_models_have_no_experts(name):
    with pytest.raises(cl.InputError, match=f"techniques: {name}: .* has no experts \\(legal: a mixture of experts\\)"):
        cl.Scenario.from_dict(
            {
                "model": "llama-2-7b", "cluster": "dgx-h100", "techniques": [name],
                "workload": {"phase": "prefill", "sequence_length": 128, "global_batch": 2},
            }
        )  # fmt: skip


@pytest.mark.parametrize(
    ("techniques", "changes", "said"),
    [
        (["exflow"], {"phase": "training"}, "exflow is for inference (legal: workload.phase prefill, decode or gen"),
        (["two_batch_overlap"], {"micro_batch": 1}, "two_batch_overlap needs two sequences a pass (legal: "),
        ([{"name": "bigmac", "r": 0}], {}, "bigmac.r: 0 (legal: a share above 0, up to 1)"),
        ([{"name": "bigmac", "r": 1.5}], {}, "bigmac.r: 1.5 (legal: a share above 0, up to 1)"),
        ([{"name": "bigmac", "r": True}], {}, "bigmac.r: True (legal: "),
        ([{"name": "bigmac", "r": float("nan")}], {}, "bigmac.r: nan (legal: "),
        ([{"name": "bigmac", "r": 1e-6}], {}, "bigmac.r: 1e-06 of 512 elements (legal: 0.002 to 1)"),
        (["bigmac"], {"model": {"expert_bottleneck": 64}}, "has a bottleneck already (legal: a model without one)"),
        ([{"name": "tutel", "degree": 0}], {}, "tutel.degree: 0 (legal: a whole number from 1 to 4096)"),
        ([{"name": "tutel", "degree": 2.0}], {}, "tutel.degree: 2.0 (legal: a whole number from 1 to 4096)"),
        ([{"name": "tutel", "exchange": "flaat"}], {}, "tutel.exchange: 'flaat' (legal: hierarchical, flat); did you"),
        ([HIERARCHICAL | {"once": True}], {}, "hierarchical_all_to_all.once: True (legal: yes, no)"),
        ([{"name": "deepep", "kernels": "fast"}], {}, "deepep.kernels: 'fast' (legal: normal, low_latency, elastic)"),
        ([{"name": "deepep", "degree": 2}], {}, "deepep has no option 'degree' (legal: kernels, tokens, overlap)"),
        ([{"name": "exflow", "publish": "all"}], {}, "exflow.publish: 'all' (legal: cache, tokens)"),
        (["deepep", "tutel"], {}, "deepep, tutel exclude each other (legal: one that arranges the way to experts)"),
        (["two_batch_overlap", "t3"], {}, "two_batch_overlap, t3 exclude each other (legal: one that arranges layers)"),
        (["bigmac", "bigmac"], {"model": {}}, "bigmac has a bottleneck already"),
        ([], {"ep": 5, "plan": {"dp": 5}}, "plan.ep: 5 does not divide the 16 experts"),
        ([], {"plan": {"dp": 12, "ep": 8}, "global_batch": 24}, "plan.ep: 8 does not divide dp * cp * tp / etp = 12"),
        ([], {"plan": {"tp": 4, "etp": 2, "dp": 4, "ep": 4}, "global_batch": 8}, "plan.etp: 2 (legal: 1 or tp, 4)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(techniques, changes, said):
    with pytest.raises(cl.InputError) as caught:
        cl.estimate(case(techniques, **changes))
    text = str(caught.value)
    assert said in text or said.replace("bigmac has", "bigmac: gpt2_moe has") in text
    assert "\n" not in text


def test_warnings_say_what_is_lost():
    assert any("top-3 gating" in text for text in cl.estimate(case("exflow", "decode")).warnings)
    assert not cl.estimate(case("exflow", "decode", model={"num_experts_per_tok": 1})).warnings
    lost = cl.estimate(case(routing={"capacity": 0.5, "skew": 1.0})).warnings
    assert any("find no room at capacity 0.5" in text for text in lost)


@pytest.mark.parametrize("way", [{"name": "tutel", "degree": 8}, "two_batch_overlap"], ids=str)
def test_arrays_of_plans_keep_their_places(way):
    """A plan costs the same whatever plans are beside it."""
    scenario = case(way, "training", global_batch=64)
    wide = cl.search(scenario, 16, keep=10_000, space=SPACE)
    narrow = cl.search(scenario, 16, keep=10_000, space={**SPACE, "tp": 2, "etp": 1, "ep": 4, "micro_batch": 4})
    keys = ["tp", "ep", "etp", "micro_batch", "sequence_parallel"]
    both = narrow.merge(wide, on=keys, suffixes=("", "_wide"))
    assert len(both) == len(narrow) > 0
    assert np.allclose(both["time_s"], both["time_s_wide"], rtol=1e-9, atol=0)
