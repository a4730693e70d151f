"""Training steps: what layers cost, how they add up, and that both engines agree."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import commlens as cl
from commlens.hardware.errors import InputError
from commlens.models.flops import model_flops
from commlens.models.kernels import Kernels
from commlens.models.library import load_model
from commlens.models.memory import footprint
from commlens.models.plan import Plan, Workload
from commlens.models.routing.known import UNIFORM
from commlens.models.software import load_software
from commlens.models.techniques import parse_technique
from commlens.models.training.compose import Composer
from commlens.models.training.memory import layer_activations
from commlens.models.training.parts import parts_of
from commlens.models.training.predict import timing_of, training_parts
from commlens.models.training.stages import chunk_sizes, kinds, layer_parameters, stage_table, vocabulary_parameters
from commlens.models.training.stragglers import Stragglers, drawn, slowdown
from commlens.models.training.timing import step_timing
from commlens.simulator import run

GPT = {"model_type": "gpt2", "n_layer": 8, "n_embd": 2048, "n_head": 16, "vocab_size": 51200, "n_positions": 2048}


def scenario(plan=None, work=None, **changes):
    return cl.Scenario.from_dict(
        {
            "model": GPT,
            "cluster": {"preset": "dgx-a100", "nodes": 8},
            "workload": {"phase": "training", "sequence_length": 2048, "global_batch": 64, "micro_batch": 1}
            | (work or {}),
            "plan": {"tp": 2} | (plan or {}),
        }
        | changes
    )


def test_forward_products_of_a_rank_are_its_share_of_the_models():
    case = scenario({"tp": 4})
    kernels = Kernels(case.cluster.device, case.software, "bf16", training=True)
    parts = parts_of(case.model, case.cluster, kernels, case.workload, case.plan, parse_technique("baseline"))
    call = parse_technique("baseline")
    layers = Composer(case.model, case.cluster, kernels, None, case.plan, None, call, UNIFORM).layers
    from commlens.models.blocks import Tokens

    tokens = Tokens(1, 2048, 2048)
    work = sum(k.flops for block in layers.forward(0, tokens) for k in block.kernels) * case.model.layers
    work += sum(k.flops for k in layers.head(tokens, True) if hasattr(k, "flops"))
    one = dataclasses.replace(case.workload, global_batch=1)
    assert 3 * 4 * work == pytest.approx(model_flops(case.model, one), rel=2e-3)
    assert len(parts.layers) == 1


@pytest.mark.parametrize("technique", ["baseline", "ladder_residual", "parallel_attention", "async_tp"])
@pytest.mark.parametrize("plan", [{"tp": 4}, {"tp": 4, "sequence_parallel": True}, {"tp": 2, "recompute": "full"}])
def test_closed_form_of_layers_is_what_playing_them_takes(technique, plan):
    case = scenario(plan, techniques=[technique])
    call = parse_technique(technique)
    closed, played = training_parts(case, call, None), training_parts(case, call, run)
    for one, other in zip(closed.layers, played.layers, strict=True):
        # Chunks beside collectives contend for memory too, which a clock does not see.
        assert float(one.forward.time) == pytest.approx(other.forward.time, rel=0.03)
        assert float(one.backward.time) == pytest.approx(other.backward.time, rel=0.03)


def test_without_contention_the_closed_form_is_exact():
    case = scenario({"tp": 1})
    call = parse_technique("baseline")
    closed, played = training_parts(case, call, None), training_parts(case, call, run)
    for one, other in ((closed.layers[0], played.layers[0]), (closed.head, played.head)):
        assert float(one.forward.time) == pytest.approx(other.forward.time, rel=1e-9)
        assert float(one.backward.time) == pytest.approx(other.backward.time, rel=1e-9)


def test_many_plans_at_once_cost_what_each_costs_alone():
    case = scenario({"tp": 2})
    tp, pp, dp, cp, micro = (
        np.array(a) for a in ([1, 2, 4, 8], [4, 2, 1, 1], [8, 4, 4, 2], [1, 2, 2, 1], [1, 2, 4, 8])
    )
    plan = dataclasses.replace(case.plan, tp=tp, pp=pp, dp=dp, cp=cp, etp=tp, zero=1)
    work = dataclasses.replace(case.workload, micro_batch=micro)
    kernels = Kernels(case.cluster.device, case.software, "bf16", training=True)
    call = parse_technique("baseline")
    parts = parts_of(case.model, case.cluster, kernels, work, plan, call)
    times = step_timing(parts, plan, work, stage_table(case.model, plan), case.model.layers).time
    for index in range(4):
        alone = scenario(
            {"tp": int(tp[index]), "pp": int(pp[index]), "dp": int(dp[index]), "cp": int(cp[index]), "zero": 1},
            {"micro_batch": int(micro[index])},
        )
        assert times[index] == pytest.approx(float(timing_of(alone, training_parts(alone, call, None)).time), rel=5e-3)


def test_recomputation_costs_what_it_repeats():
    def times(recompute, **software):
        case = scenario({"recompute": recompute}, software={"preset": "megatron-core", **software})
        parts = training_parts(case, parse_technique("baseline"), None)
        return float(parts.layers[0].forward.time), float(parts.layers[0].backward.time)

    forward, backward = times("none")
    assert times("full")[1] == pytest.approx(backward + forward, rel=1e-6)
    assert backward < times("selective")[1] < times("full", early_stop=True)[1] < backward + forward


@pytest.mark.parametrize(
    "technique", ["baseline", "parallel_attention", "ladder_residual", "no_communication", "async_tp"]
)
@pytest.mark.parametrize("early_stop", [False, True])
def test_every_technique_repeats_the_forward_pass_before_the_backward_pass(technique, early_stop):
    def times(recompute):
        software = {"preset": "megatron-core", "early_stop": early_stop}
        case = scenario({"tp": 4, "recompute": recompute}, software=software)
        layer = training_parts(case, parse_technique(technique), None).layers[0]
        return float(layer.forward.time), float(layer.backward.time)

    (forward, backward), (_, repeated) = times("none"), times("full")
    least = 0.5 if early_stop else 0.8  # collectives of the one may run under kernels of the other
    assert backward + least * forward < repeated < backward + 1.01 * forward


def test_only_the_layers_asked_for_are_recomputed():
    step = [cl.estimate(scenario({"recompute": "full", "recompute_layers": n})).time_s for n in (1, 4, 8)]
    none, full = cl.estimate(scenario()).time_s, cl.estimate(scenario({"recompute": "full"})).time_s
    assert none < step[0] < step[1] < step[2] == pytest.approx(full)
    assert np.diff(step)[0] / 3 == pytest.approx((full - none) / 8, rel=1e-6)


@given(st.integers(1, 200), st.integers(1, 64))
def test_chunks_hold_every_layer_and_differ_by_one_at_most(layers, chunks):
    sizes = chunk_sizes(layers, chunks)
    assert sum(sizes) == layers
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == min(sizes) or sum(size > min(sizes) for size in sizes) >= chunks - 1


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-120b"])
@pytest.mark.parametrize(("tp", "ep", "etp"), [(1, 1, 1), (4, 1, 4), (2, 8, 1)])
def test_parameters_of_all_ranks_add_up_to_the_model(model, tp, ep, etp):
    model = load_model(model)
    if ep > 1 and not model.experts:
        pytest.skip("no experts")
    plan = Plan(tp=tp, ep=ep, etp=etp, dp=8)
    held = 0.0
    for kind in kinds(model):
        dense, routed = layer_parameters(model, kind.example, plan)
        kept = model.norm_parameters() + model.router_parameters(kind.example)
        shared = model.shared_experts * model.expert_parameters() if model.is_moe(kind.example) else 0
        dense = (dense - kept - shared / etp) * tp + kept + shared
        held += kind.members.sum() * (dense + routed * ep * etp)
    embedding, head = vocabulary_parameters(model, plan, True)
    held += (embedding + head - model.final_norm_parameters()) * tp + model.final_norm_parameters()
    assert held == pytest.approx(model.parameters(), rel=1e-9)


@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_activations_are_those_of_korthikanti(tp, sequence_parallel):
    # arXiv 2205.05198, equations 1 to 4, of a GPT with dropout and scores in memory.
    s, b, h, a = 2048, 4, 6144, 64
    model = load_model(
        {"model_type": "gpt2", "n_layer": 1, "n_embd": h, "n_head": a, "vocab_size": 512, "n_positions": s}
    )
    work, software = Workload("training", s, 0, b, b, "fp16"), load_software("megatron-2021")
    plan = Plan(tp=tp, sequence_parallel=sequence_parallel)
    serial = 10 / tp if sequence_parallel else 10
    expected = s * b * h * (serial + 24 / tp + 5 * a * s / (h * tp))
    assert layer_activations(model, 0, work, plan, software) == pytest.approx(expected)
    plan = dataclasses.replace(plan, recompute="selective")
    assert layer_activations(model, 0, work, plan, software) == pytest.approx(s * b * h * (serial + 24 / tp))


def test_zero_divides_what_its_stage_says():
    def memory(zero):
        return cl.estimate(scenario({"tp": 1, "dp": 8, "zero": zero}, {"micro_batch": 1})).memory_bytes

    plain, one, two, three = map(memory, range(4))
    assert one["optimizer"] == plain["optimizer"] / 8
    assert one["gradients"] == plain["gradients"]
    assert two["gradients"] < plain["gradients"] / 2
    assert three["weights"] < plain["weights"] / 2
    assert sum(v for k, v in plain.items() if k != "total") == pytest.approx(plain["total"])


def test_offloaded_state_leaves_the_device_and_costs_its_way():
    kept, away = (cl.estimate(scenario({"offload": where})) for where in ("none", "optimizer"))
    assert away.memory_bytes["optimizer"] == 0 < kept.memory_bytes["optimizer"]
    assert away.time_s > kept.time_s


def test_overlap_hides_gradients_and_weights():
    bare = scenario({"tp": 1, "dp": 32, "zero": 1, "overlap": []})
    hidden = scenario({"tp": 1, "dp": 32, "zero": 1, "overlap": ["gradients", "parameters"]})
    assert cl.estimate(hidden).time_s < cl.estimate(bare).time_s
    assert cl.estimate(hidden).communication_bytes == cl.estimate(bare).communication_bytes


def test_larger_buckets_leave_more_of_the_gradients_to_the_end():
    def step(bucket, engine):
        plan = {"tp": 1, "dp": 32, "overlap": ["gradients"], "bucket": bucket}
        slow = {"cluster": {"preset": "dgx-a100", "nodes": 4, "nic": {"preset": "hdr200", "bandwidth": "50 Gbit/s"}}}
        return engine(scenario(plan, {"global_batch": 32}, **slow)).time_s

    for engine in (cl.estimate, cl.simulate):
        times = [step(bucket, engine) for bucket in ("25 MB", "400 MB", "10 GB")]
        assert times == sorted(times)
        assert times[0] < times[-1]


def test_hybrid_sharding_keeps_gathers_inside_the_node():
    slow = {"cluster": {"preset": "dgx-a100", "nodes": 4, "nic": {"preset": "hdr200", "bandwidth": "12.5 Gbit/s"}}}
    work = {"global_batch": 32}
    whole = scenario({"tp": 1, "dp": 32, "zero": 3}, work, **slow)
    inside = scenario({"tp": 1, "dp": 32, "zero": 3, "shard_group": 8}, work, **slow)
    assert cl.estimate(inside).time_s < cl.estimate(whole).time_s
    assert cl.estimate(inside).memory_bytes["weights"] > cl.estimate(whole).memory_bytes["weights"]


def test_a_slow_rank_slows_the_step_by_its_factor():
    even = cl.estimate(scenario({"dp": 16}))
    slow = cl.estimate(scenario({"dp": 16}, stragglers={"factors": {3: 1.25}}))
    assert 1.2 < slow.time_s / even.time_s < 1.26
    assert cl.estimate(scenario({"dp": 16}, stragglers={"spread": 0.02})).time_s > even.time_s


@pytest.mark.parametrize("distribution", ["normal", "lognormal", "exponential"])
def test_expected_slowest_is_the_mean_of_drawn_ones(distribution):
    stragglers = Stragglers(0.05, distribution)
    means = np.mean([drawn(stragglers, 64, 1, seed)[0] for seed in range(400)])
    assert slowdown(stragglers, 64) == pytest.approx(means, rel=0.01)


def test_data_loading_is_added():
    extra = cl.estimate(scenario(work={"data_loading": 0.25})).time_s - cl.estimate(scenario()).time_s
    assert extra == pytest.approx(0.25)


def test_a_host_that_launches_slowly_sets_the_pace():
    case = scenario(software={"preset": "megatron-core", "host_per_kernel": 1e-3})
    parts = training_parts(case, parse_technique("baseline"), None)
    layer = parts.layers[0]
    launches = layer.forward.launches + layer.backward.launches
    assert float(layer.forward.time + layer.backward.time) == pytest.approx(launches * 1e-3)


def test_fp8_halves_products_and_adds_conversions():
    big = {"model": "llama-3.1-8b", "cluster": {"preset": "dgx-h100"}}
    work = {"sequence_length": 8192}
    wide, narrow = (cl.estimate(scenario({"tp": 1}, {**work, "dtype": d}, **big)) for d in ("bf16", "fp8"))
    assert 0.5 < narrow.time_s / wide.time_s < 0.85
    assert narrow.communication_bytes == wide.communication_bytes
    assert narrow.memory_bytes["activations"] < wide.memory_bytes["activations"]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"pp": 16}, ["plan.pp", "<= 8"]),
        ({"ep": 2}, ["plan.ep", "no experts"]),
        ({"vp": 2, "pp": 2, "schedule": "gpipe"}, ["plan.vp", "interleaved"]),
        ({"dp": 8, "shard_group": 3}, ["plan.shard_group", "1, 2, 4, 8"]),
        ({"placement": "tp-dp"}, ["plan.placement", "tp-cp-dp-pp"]),
        ({"tp": 16, "dp": 8}, ["plan", "<= 64"]),
    ],
)
def test_impossible_plans_are_told_in_one_line(plan, words):
    with pytest.raises(InputError) as problem:
        scenario(plan)
    assert "\n" not in str(problem.value)
    for word in words:
        assert word in str(problem.value)


PLANS = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 4, 8]),
        "pp": st.sampled_from([1, 2, 4]),
        "dp": st.sampled_from([1, 2]),
        "zero": st.integers(0, 3),
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "sequence_parallel": st.booleans(),
    }
)


@given(PLANS)
@settings(max_examples=25, deadline=None)
def test_memory_of_a_result_is_its_footprint_and_more_devices_never_hold_more(plan):
    case = scenario(plan)
    assert cl.estimate(case).memory_bytes == footprint(case.model, case.workload, case.plan, case.software)
    if plan["zero"] == 3 and plan["dp"] == 2:
        single = scenario({**plan, "dp": 1})
        assert cl.estimate(case).memory_bytes["optimizer"] < cl.estimate(single).memory_bytes["optimizer"]
