"""Layers with experts: parameters, FLOPs, memory, load, and passes forward, backward and again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import commlens as cl
from commlens.hardware import load_device
from commlens.models.blocks import Exchange, Experts, Tokens
from commlens.models.feed_forward import FeedForward
from commlens.models.gradients import flattened
from commlens.models.kernels import Kernel, Kernels
from commlens.models.layers import Layers
from commlens.models.plan import Division
from commlens.models.routing.known import Routing
from commlens.models.software import load_software
from commlens.models.split import part_of_experts
from commlens.models.training.stages import layer_parameters

GPT = {
    "model_type": "gpt2_moe", "n_layer": 4, "n_embd": 512, "n_head": 8, "n_inner": 2048, "vocab_size": 4096,
    "n_positions": 1024, "num_local_experts": 16, "num_experts_per_tok": 3, "moe_intermediate_size": 256,
}  # fmt: skip
SHARED = {
    "model_type": "deepseek_v3", "hidden_size": 512, "num_hidden_layers": 4, "first_k_dense_replace": 1,
    "num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": None, "kv_lora_rank": 64, "vocab_size": 4096,
    "n_routed_experts": 16, "num_experts_per_tok": 3, "n_shared_experts": 2, "moe_intermediate_size": 256,
    "intermediate_size": 1024,
}  # fmt: skip
MODELS = pytest.mark.parametrize("model", [GPT, SHARED], ids=["gpt", "shared experts"])
LAYER = 2  # a mixture in both
BATCH, LENGTH = 2, 128
ROWS = BATCH * LENGTH


def case(model=GPT, techniques=(), phase="prefill", plan=None, routing=None, **work):
    workload = {"phase": phase, "sequence_length": LENGTH, "micro_batch": BATCH, **work}
    plan = plan or {"dp": 8, "ep": 8}
    workload.setdefault("global_batch", BATCH * plan.get("dp", 1))
    if routing:
        workload["routing"] = routing
    data = {"model": model, "cluster": {"preset": "dgx-h100", "nodes": 4}, "plan": plan, "workload": workload}
    return cl.Scenario.from_dict({**data, "techniques": list(techniques)})


def layers(model=GPT, division=None, routing=None, dtype="bf16", techniques=(), software="megatron-core"):
    kernels = Kernels(load_device("h100-sxm"), load_software(software), dtype, training=True)
    built = case(model, techniques).model
    return Layers(built, kernels, division or Division(ep=8), training=True, routing=routing or Routing())


def mixture(some, batch=BATCH, query=LENGTH):
    return some.forward(LAYER, Tokens(batch, query, LENGTH))[1]


def experts_of(block):
    return next(item for item in block.kernels if isinstance(item, Experts))


def flops(kernels, word=""):
    return sum(kernel.flops for kernel in kernels if word in kernel.name)


# What is computed


@pytest.mark.parametrize("techniques", [(), ("bigmac",)], ids=["plain", "bigmac"])
@MODELS
def test_a_rank_multiplies_what_its_tokens_ask_for(model, techniques):
    found = layers(model, techniques=techniques)
    block, shape = mixture(found), found.model
    matrices = 3 if shape.gated else 2
    copies = 2 * ROWS * 3 * matrices * shape.expert_width * shape.expert_ffn
    assert flops(flattened(block.kernels), "expert up") + flops(flattened(block.kernels), "expert down") == (
        pytest.approx(copies + 2 * ROWS * matrices * 512 * shape.shared_width)
    )
    assert flops(flattened(block.kernels), "router") == 2 * ROWS * 512 * 16
    assert flops(flattened(block.kernels), "projection") == 2 * 2 * ROWS * 512 * shape.bottleneck


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("techniques", [(), ("bigmac",)], ids=["plain", "bigmac"])
@MODELS
def test_a_backward_pass_multiplies_twice_as_much(model, techniques, dtype):
    """Input and weight gradients of every product, the router's and those of experts that stay among them."""
    found = layers(model, dtype=dtype, techniques=techniques)
    forward = mixture(found)
    backward = found.backward(forward)
    products = [kernel for kernel in flattened(forward.kernels) if kernel.shape]
    gradients = [kernel for kernel in flattened(backward.kernels) if kernel.shape]
    weights = [kernel for kernel in backward.deferred if kernel.shape]
    assert flops(gradients) == pytest.approx(flops(products))
    assert flops(weights) == pytest.approx(flops(products))
    assert len(gradients) == len(weights) == len(products)
    work = experts_of(backward)
    assert work.direction == "backward"
    assert work.copies == experts_of(forward).copies


@MODELS
def test_the_backward_pass_begins_with_what_came_last(model):
    """Gradients go to the experts before the router's, whose input gradient all ranks add up."""
    kernels = layers(model).backward(mixture(layers(model))).kernels
    names = [getattr(item, "name", type(item).__name__) for item in kernels]
    assert names.index("combine backward") < names.index("Experts") < names.index("dispatch backward")
    assert names[-1] == "router input gradient"


def test_what_is_made_again_is_what_is_read():
    """All but the last product, whose result nobody needs; results of experts do not travel for it."""
    found = layers(software="torchtitan-compile")
    kept = found.saved(mixture(found))
    work = kept.kernels[-1]
    assert isinstance(work, Experts)
    assert not work.returned
    assert [kernel.name for kernel in work.products if kernel.shape] == ["expert up"]
    changed = layers(techniques=["bigmac"])
    kept = changed.saved(mixture(changed))  # what comes up is read by nothing, the sum that goes up is
    assert experts_of(kept).returned
    assert len(experts_of(kept).products) == len(experts_of(mixture(changed)).products)
    assert not any(isinstance(item, Kernel) and item.name == "projection up" for item in kept.kernels)


@pytest.mark.parametrize("recompute", ["full", "selective"])
@pytest.mark.parametrize("software", ["megatron-core", "torchtitan-compile"])
def test_recomputation_repeats_no_exchange_it_does_not_need(recompute, software):
    plain, again = (
        cl.estimate(case(phase="training", plan={"dp": 8, "ep": 8, "recompute": how}).replace({"software": software}))
        for how in ("none", recompute)
    )
    more = {("full", "megatron-core"): 6 / 4, ("full", "torchtitan-compile"): 5 / 4}.get((recompute, software), 1.0)
    sent, base = again.communication_bytes["all_to_all"], plain.communication_bytes["all_to_all"]
    assert sent == pytest.approx(base * more)
    assert again.memory_bytes["activations"] < plain.memory_bytes["activations"] or software == "megatron-core"


def test_training_takes_three_forward_passes_of_products():
    forward, training = (
        cl.estimate(case(phase=phase, plan={"dp": 8, "ep": 8})).model_flops_per_device
        for phase in ("prefill", "training")
    )
    assert training == pytest.approx(3 * forward)


# Where tokens go


@given(imbalance=st.floats(1, 16), capacity=st.floats(0.25, 8), top_k=st.integers(1, 16))
@settings(max_examples=30)
def test_load_and_room_scale_the_products(imbalance, capacity, top_k):
    model = {**GPT, "num_experts_per_tok": top_k}
    even = flops(experts_of(mixture(layers(model))).products)
    uneven = experts_of(mixture(layers(model, routing=Routing(imbalance=imbalance))))
    padded = experts_of(mixture(layers(model, routing=Routing(capacity=capacity))))
    assert flops(uneven.products) == pytest.approx(imbalance * even)
    assert uneven.copies == ROWS * top_k
    assert uneven.load == imbalance
    assert flops(padded.products) == pytest.approx(capacity * even)
    assert padded.copies == pytest.approx(capacity * ROWS * top_k)
    assert padded.load == 1


@given(rows=st.integers(1, 200), ep=st.sampled_from([1, 2, 4, 8, 16]), top_k=st.integers(1, 16))
@settings(max_examples=40)
def test_experts_that_see_a_token(rows, ep, top_k):
    """Independent draws of all tokens of the group."""
    found = layers({**GPT, "num_experts_per_tok": top_k}, Division(ep=ep)).touched(rows)
    assert found == pytest.approx(16 / ep * (1 - (1 - top_k / 16) ** (rows * ep)))
    assert 0 < found <= 16 / ep
    assert layers(GPT, Division(ep=ep), Routing(capacity=1.0)).touched(rows) == 16 / ep  # all are filled up


def test_experts_that_see_a_token_are_counted_by_drawing():
    generator = np.random.default_rng(0)
    chosen = generator.random((4000, 5, 16)).argsort(axis=-1)[..., :3]  # five tokens at a time
    seen = np.mean([len(np.unique(draw)) for draw in chosen]) / 8
    assert layers(division=Division(ep=1)).touched(5) / 8 == pytest.approx(seen, rel=0.01)


@MODELS
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_of_tokens_add_up(model, parts):
    found = layers(model)
    whole = experts_of(mixture(found))

    class Few:
        """What a part asks of a builder."""

        kernels = found.kernels
        cluster = case().cluster
        groups = None

    piece = part_of_experts(whole, parts, Few)  # type: ignore[arg-type]
    assert parts * piece.copies == pytest.approx(whole.copies)
    assert parts * flops(piece.kernels) == pytest.approx(flops(whole.kernels))
    if parts == 1:
        assert sum(k.time for k in piece.kernels) == pytest.approx(sum(k.time for k in whole.kernels))
    else:
        assert parts * sum(k.time for k in piece.kernels) > sum(k.time for k in whole.kernels)


@pytest.mark.parametrize("phase", ["prefill", "decode", "training"])
def test_more_load_takes_longer_and_none_longer_than_all(phase):
    times = [cl.estimate(case(phase=phase, routing={"imbalance": f})).time_s for f in (1.0, 2.0, 8.0)]
    assert times[0] < times[1] < times[2]
    assert cl.estimate(case(phase=phase)).time_s == times[0]
    alone = case(phase=phase, plan={"dp": 8, "ep": 1}, routing={"imbalance": 8.0})
    assert cl.estimate(alone).time_s == cl.estimate(case(phase=phase, plan={"dp": 8, "ep": 1})).time_s


# Tensor-parallel experts


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(("ep", "etp"), [(1, 4), (1, 1), (4, 1), (2, 4), (8, 1)])
def test_ranks_share_the_work_however_it_is_divided(ep, etp, sequence_parallel):
    """FLOPs of all ranks are those of all tokens."""
    division = Division(tp=4, ep=ep, etp=etp, sequence_parallel=sequence_parallel)
    found = experts_of(mixture(layers(SHARED, division)))
    whole = experts_of(mixture(layers(SHARED, Division(ep=8))))
    assert 4 * flops(found.products) == pytest.approx(flops(whole.products))
    assert 4 * flops(found.shared) == pytest.approx(flops(whole.shared))
    divided = ep == 1 and etp == 4  # every rank a part of every token's products, added up after
    assert found.tokens == (ROWS if divided else ROWS / 4)
    gathered = 0.0 if ep == 1 or etp == 1 else ROWS * 3 * 512 * 2
    assert found.gathered == pytest.approx(gathered)
    assert [item.kind for item in found.work if isinstance(item, Exchange)] == (
        ["all_gather", "reduce_scatter"] if gathered else []
    )
    assert [item.kind for item in replace(found, returned=False).work if isinstance(item, Exchange)] == (
        ["all_gather"] if gathered else []
    )


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(("ep", "etp"), [(1, 4), (1, 1), (4, 1), (2, 4)])
def test_every_rank_goes_on_with_its_tokens(ep, etp, sequence_parallel):
    """Sums are added up where experts are divided, tokens gathered where they are not and all are wanted."""
    block = mixture(layers(division=Division(tp=4, ep=ep, etp=etp, sequence_parallel=sequence_parallel)))
    size = ROWS * 512 * 2
    divided = ep == 1 and etp == 4
    assert block.output_bytes == (size if divided else 0)
    assert block.gather_bytes == (size if divided and sequence_parallel else 0)
    whole = [item.size for item in block.kernels if isinstance(item, Exchange)]
    assert whole == ([] if divided or sequence_parallel else [size])


@settings(max_examples=25)
@given(tp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([1, 2, 4, 8, 16]), whole=st.booleans())
def test_arrays_of_divisions_are_divisions_one_at_a_time(tp, ep, whole):
    etp = tp if whole else 1
    many = Division(tp=np.array([1, tp]), ep=np.array([2, ep]), etp=np.array([1, etp]))
    found = experts_of(mixture(layers(SHARED, many)))
    alone = experts_of(mixture(layers(SHARED, Division(tp=tp, ep=ep, etp=etp))))
    for name in ("tokens", "copies", "gathered", "load"):
        assert np.broadcast_to(getattr(found, name), (2,))[1] == pytest.approx(getattr(alone, name))
    for mine, other in zip(found.kernels, alone.kernels, strict=True):
        assert np.broadcast_to(mine.flops, (2,))[1] == pytest.approx(other.flops)


# What is held


@pytest.mark.parametrize("techniques", [(), ("bigmac",)], ids=["plain", "bigmac"])
@pytest.mark.parametrize(("tp", "ep", "etp"), [(1, 1, 1), (1, 8, 1), (2, 4, 2), (2, 8, 1), (4, 1, 4)])
@MODELS
def test_inference_divides_experts_by_the_ranks_that_hold_them(model, tp, ep, etp, techniques):
    plan = {"tp": tp, "dp": 8, "ep": ep, "etp": etp}
    scenario = case(model, techniques, plan=plan)
    shape = scenario.model
    mixtures = sum(shape.moe_layers)
    routed = mixtures * 16 * shape.expert_parameters()
    shared = mixtures * shape.shared_experts * 3 * 512 * 256
    projections = mixtures * 2 * 512 * shape.bottleneck
    vocabulary = shape.embedding_parameters() + shape.head_parameters()
    rest = shape.parameters() - routed - shared - projections - vocabulary
    each = shared / (tp if ep == 1 else 1)  # a rank has them whole for tokens of its own
    expected = rest / tp + routed / (ep * etp) + each + projections + vocabulary  # whole on every rank of this stack
    assert cl.estimate(scenario).memory_bytes["weights"] == pytest.approx(2 * expected)


@pytest.mark.parametrize("techniques", [(), ("bigmac",)], ids=["plain", "bigmac"])
@pytest.mark.parametrize(("tp", "ep", "etp"), [(1, 1, 1), (1, 8, 1), (2, 4, 2), (2, 8, 1), (4, 1, 4)])
@MODELS
def test_training_divides_experts_by_the_ranks_that_hold_them(model, tp, ep, etp, techniques):
    scenario = case(model, techniques, "training", plan={"tp": tp, "dp": 8, "ep": ep, "etp": etp})
    shape = scenario.model
    dense, routed = layer_parameters(shape, LAYER, scenario.plan)
    assert routed == pytest.approx(16 * shape.expert_parameters() / (ep * etp))
    kept = shape.norm_parameters() + shape.router_parameters(LAYER) + 2 * 512 * shape.bottleneck
    shared = shape.shared_experts * (3 * 512 * 256) / (tp if ep == 1 else 1)
    assert dense == pytest.approx(shape.attention_parameters() / tp + shared + kept)
    if tp == ep == 1:
        assert dense + routed == shape.layer_parameters(LAYER)


def test_a_bottleneck_keeps_narrow_copies():
    """Copies in and out at a part of the width; beside them what goes down and the sum that comes up."""
    base, narrow = (cl.estimate(case(GPT, way, "training")).memory_bytes["activations"] for way in ((), ("bigmac",)))
    r, inner = 0.25, 256
    copies = 3 * (2 * 512 * (r - 1) + 2 * inner * (1 / r - 1))  # GELU keeps its input and its output
    assert narrow - base == pytest.approx(2 * ROWS * 4 * (copies + 2 * r * 512))


def test_gradients_of_experts_are_added_up_over_fewer_ranks():
    """Replicas of all divided by those that divide the experts."""
    spread, whole = (
        cl.estimate(case(phase="training", plan={"dp": 16, "ep": ep, "zero": 0})).communication_bytes["all_reduce"]
        for ep in (16, 1)
    )
    shape = case().model
    routed = 4 * 16 * shape.expert_parameters()
    dense = shape.parameters() - routed
    ring = 2 * 15 / 16
    size = load_software("megatron-core").message_bytes
    assert whole == pytest.approx(ring * (dense + routed) * size)
    assert spread == pytest.approx(ring * dense * size)


def test_every_half_of_a_layer_is_one_class():
    assert issubclass(Layers, FeedForward)
