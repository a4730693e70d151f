"""What must hold of every technique, and what each paper's mechanism implies."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import load_cluster
from commlens.models.predict import estimate, programs, simulate
from commlens.models.scenario import Scenario
from commlens.models.techniques import registry
from commlens.simulator import critical_path_time, run, serial_time

TECHNIQUES = [
    *({"name": name} for name in registry()),
    *({"name": "t3", "arbitration": a} for a in ("mca", "ideal", "ideal_nmc")),
]
REORDERING = [
    "baseline",
    "ladder_residual",
    "async_tp",
]  # they move the same bytes in another order
CONTENTION_FREE = ["baseline", "parallel_attention", "no_communication"]
SMALL = {
    "model_type": "llama",
    "hidden_size": 840 * 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 840,
    "num_key_value_heads": 840,
    "intermediate_size": 840 * 20,
    "vocab_size": 32000,
}
# 840 heads: every degree from 2 to 8 divides them
MIXTURE = {
    **SMALL,
    "model_type": "qwen3_moe",
    "num_experts": 840,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 840,
}
MACHINES = ["dgx-h100", "t3-ring"]  # without and with near-memory compute
TENSOR = [call for call in TECHNIQUES if registry()[call["name"]].family != "moe"]


def mixture(technique):
    name = technique["name"] if isinstance(technique, dict) else technique
    return registry()[name].family == "moe"


def ident(call):
    return "-".join(str(value) for value in call.values())


def scenario(technique="baseline", tp=4, batch=2, phase="prefill", fold=True, cluster=None, **workload):
    workload = {"sequence_length": 512, **workload}
    plan = {"tp": tp}
    if mixture(technique):  # as many ranks, which divide the experts
        plan = {"dp": tp, "ep": tp}
        workload = {**workload, "micro_batch": batch}
        batch *= tp
    return Scenario.from_dict(
        {
            "model": MIXTURE if mixture(technique) else SMALL,
            "cluster": cluster or {"preset": "dgx-h100"},
            "plan": plan,
            "fold": fold,
            "workload": {"phase": phase, "global_batch": batch, **workload},
            "techniques": [technique],
        }
    )


@pytest.mark.parametrize("tp", [2, 3, 5, 8])
@pytest.mark.parametrize("call", TENSOR, ids=ident)
def test_folded_equals_unfolded(call, tp):
    folded, every = (simulate(scenario(call, tp, fold=fold)) for fold in (True, False))
    assert every.time_s == pytest.approx(folded.time_s, rel=1e-9)
    assert every.exposed_communication_s == pytest.approx(folded.exposed_communication_s, rel=1e-6, abs=1e-12)
    assert every.communication_bytes == pytest.approx(folded.communication_bytes)
    assert every.memory_traffic_bytes == pytest.approx(folded.memory_traffic_bytes)
    assert every.trace().program.count > folded.trace().program.count


@pytest.mark.parametrize("phase", ["prefill", "decode", "training"])
@pytest.mark.parametrize("call", TECHNIQUES, ids=ident)
def test_time_lies_between_critical_path_and_serial_sum(call, phase):
    if call["name"] == "exflow" and phase == "training":
        pytest.skip("is for inference")
    for _, program, _ in programs(scenario(call, phase=phase)):
        time = run(program).makespan
        assert critical_path_time(program) * (1 - 1e-9) <= time <= serial_time(program) * (1 + 1e-9)


@pytest.mark.parametrize("name", CONTENTION_FREE)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_simulate_equals_estimate_without_contention(name, phase):
    case = scenario(name, phase=phase)
    assert simulate(case).time_s == pytest.approx(estimate(case).time_s, rel=1e-9)


def test_contention_makes_an_overlap_slower_than_its_estimate():
    case = scenario("ladder_residual", tp=8, batch=8)
    assert simulate(case).time_s > estimate(case).time_s * 1.001


@pytest.mark.parametrize("name", REORDERING)
@given(tp=st.integers(2, 8), batch=st.sampled_from([1, 4, 64]))
@settings(max_examples=6)
def test_reordering_moves_the_same_payload(name, tp, batch):
    # ring all-reduce, reduce-scatter and all-gather: (n - 1) / n of the buffer per pass
    cluster = {"preset": "dgx-a100"}
    base = simulate(scenario("baseline", tp, batch, cluster=cluster)).communication_bytes
    other = simulate(scenario(name, tp, batch, cluster=cluster)).communication_bytes
    assert sum(other.values()) == pytest.approx(sum(base.values()))


@given(tp=st.integers(2, 8), arbitration=st.sampled_from(["plain", "mca", "ideal", "ideal_nmc"]))
@settings(max_examples=8)
def test_t3_sends_the_bytes_of_a_reduce_scatter_and_an_all_gather(tp, arbitration):
    result = simulate(scenario({"name": "t3", "arbitration": arbitration}, tp))
    payload = 2 * 512 * SMALL["hidden_size"] * 2 * 2 * SMALL["num_hidden_layers"]
    wire = payload * (tp - 1) / tp
    assert result.communication_bytes == pytest.approx({"all_gather": wire, "reduce_scatter": wire})


@pytest.mark.parametrize("call", TECHNIQUES, ids=ident)
def test_no_technique_beats_the_bound_without_communication(call):
    # parallel attention fuses kernels away, so its own bound is lower
    bound = simulate(scenario("no_all_to_all" if mixture(call) else "no_communication", tp=8)).time_s
    slack = 0.9 if call["name"] == "parallel_attention" else 1 - 1e-9
    assert simulate(scenario(call, tp=8)).time_s >= slack * bound


@pytest.mark.parametrize("phase", ["prefill", "training"])
@pytest.mark.parametrize("call", TECHNIQUES, ids=ident)
def test_halving_the_link_never_helps(call, phase):
    if call["name"] == "exflow" and phase == "training":
        pytest.skip("is for inference")
    link = load_cluster("dgx-a100").link
    half = {"preset": "dgx-a100", "link": {"preset": link.name, "bandwidth": link.bandwidth / 2}}
    fast = simulate(scenario(call, 8, phase=phase, cluster={"preset": "dgx-a100"}))
    assert simulate(scenario(call, 8, phase=phase, cluster=half)).time_s >= fast.time_s * (1 - 1e-9)


@pytest.mark.parametrize("call", TECHNIQUES, ids=ident)
def test_halving_the_memory_bandwidth_never_helps(call):
    device = load_cluster("dgx-h100").device
    half = {
        "preset": "dgx-h100",
        "device": {"preset": device.name, "memory_bandwidth": device.memory_bandwidth / 2},
    }
    assert simulate(scenario(call, 8, cluster=half)).time_s >= simulate(scenario(call, 8)).time_s * (1 - 1e-9)


def test_one_rank_communicates_nothing_and_says_so():
    result = simulate(scenario("baseline", tp=1))
    assert result.communication_bytes == {}
    assert result.exposed_communication_s == 0
    assert any("nothing was communicated" in text for text in result.warnings)


def test_ladder_hides_what_the_baseline_exposes():
    base, ladder = (simulate(scenario(name, 8, 16)) for name in ("baseline", "ladder_residual"))
    assert base.exposed_communication_s == pytest.approx(base.communication_s, rel=1e-6)
    assert ladder.exposed_communication_s < 0.5 * base.exposed_communication_s


def test_ladder_waits_for_the_reduction_before_last():
    ((_, program, _),) = programs(scenario("ladder_residual", 8))
    reductions = [task for task in program.tasks if task.kind == "communication"]
    first = {}
    for task in program.tasks:  # the first kernel of every block waits for a reduction, or the start
        if task.kind == "compute" and any(program.tasks[i].kind == "communication" for i in task.after):
            first[len(first)] = max(i for i in task.after if program.tasks[i].kind == "communication")
    order = [task.id for task in reductions]
    # block 0 and 1 wait for nothing, block i for reduction i - 2, the head for the last two
    assert [order.index(i) for i in list(first.values())[:4]] == [0, 1, 2, 3]


def test_t3_sends_triggered_by_tile_and_by_arrival():
    ((_, program, _),) = programs(scenario({"name": "t3"}, 4))
    tasks = program.tasks
    sends = [task for task in tasks if task.stream == "dma"]
    assert len(sends) == 2 * 3 * 3  # blocks x (ranks - 1)
    per_block = sends[:3]
    assert [task.name for task in per_block] == ["remote stores", "triggered DMA", "triggered DMA"]
    for earlier, later in itertools.pairwise(per_block):
        chunk = next(t for t in tasks if t.kind == "compute" and t.stream == "compute" and t.id > earlier.id - 2)
        assert earlier.id in later.after  # the neighbour's transfer, which mirrors the own
        assert chunk.id in later.after


def test_t3_arbitration_orders_as_in_the_paper():
    from commlens.validation import t3

    for case in t3.SIXTEEN:
        ideal, nmc, plain, mca = (t3.sub_layer(*case, "t3", a)["time"] for a in ("ideal", "ideal_nmc", "plain", "mca"))
        assert nmc <= ideal
        # near-memory reduction lets the real designs pass the ideal overlap of an ordinary scatter
        assert nmc * (1 - 1e-9) <= min(plain, mca)


def test_t3_says_where_it_assumes_hardware():
    cases = [scenario(name, cluster=cluster, dtype="fp16") for name in ("t3", "baseline") for cluster in MACHINES]
    said = [[line for line in estimate(case).warnings if "near-memory" in line] for case in cases]
    assert said == [["h100-sxm has no near-memory compute: T3's hardware is assumed"], [], [], []]


def test_async_chunks_cost_tiles_and_launches():
    base = estimate(scenario("baseline", 8, 16))
    compute = [estimate(scenario({"name": "async_tp", "chunks": c}, 8, 16)).compute_s for c in (1, 4, 16)]
    assert compute[0] == pytest.approx(base.compute_s)
    assert compute == sorted(compute)
    assert compute[2] > 1.01 * compute[0]


def test_copy_engines_leave_the_compute_units_alone():
    sm, copy = (simulate(scenario({"name": "async_tp", "engine": e}, 2, 16)).time_s for e in ("sm", "copy"))
    assert copy < sm
