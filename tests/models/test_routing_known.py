"""What a scenario knows of routing: load, spread, near experts, and every key of its section, right and wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import commlens as cl
from commlens.models.routing.generate import generate
from commlens.models.routing.known import UNIFORM, Routing, limited_hit
from commlens.models.routing.placement_file import PlacementFile, save_placement
from commlens.models.routing.trace_file import save_trace
from commlens.simulator.expert_exchange import expected_hit
from commlens.solvers.expert_placement import round_robin

LAYERS, EXPERTS, K = 4, 8, 2
MODEL = {
    "model_type": "gpt2_moe", "n_layer": LAYERS, "n_embd": 256, "n_head": 4, "n_inner": 1024, "vocab_size": 1024,
    "n_positions": 1024, "num_local_experts": EXPERTS, "num_experts_per_tok": K, "moe_intermediate_size": 128,
}  # fmt: skip


def case(routing=None, ep=4, model=None, nodes=1, techniques=(), phase="decode"):
    workload = {"phase": phase, "sequence_length": 64, "global_batch": ep}
    if routing is not None:
        workload["routing"] = routing
    return cl.Scenario.from_dict(
        {
            "model": model or MODEL,
            "cluster": {"preset": "dgx-h100", "nodes": nodes},
            "plan": {"dp": ep, "ep": ep},
            "workload": workload,
            "techniques": list(techniques),
        }
    )


@pytest.fixture(scope="module")
def trace():
    return generate(600, LAYERS, EXPERTS, K, affinity=0.7, skew=0.8, seed=3)


# Nothing known


@given(ranks=st.sampled_from([1, 2, 4, 8, 16]), top_k=st.integers(1, 16))
def test_uniform_routing(ranks, top_k):
    nodes = max(1, ranks // 4)
    found = UNIFORM.spread(16, top_k, ranks, nodes)
    assert found.devices == pytest.approx(expected_hit(ranks, 16, top_k))
    assert found.nodes == pytest.approx(expected_hit(nodes, 16, top_k))
    assert (found.same_device, found.same_node) == (1 / ranks, 1 / nodes)
    assert UNIFORM.load(ranks) == 1
    assert UNIFORM.padding == 1


@pytest.mark.parametrize("limits", [(1, 1), (4, 2), (2, 1), (4, 4), (8, 3)])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("top_k", [1, 2])
def test_experts_of_few_groups_are_counted(parts, top_k, limits):
    """Every choice of groups, and every choice of experts in them."""
    groups, limit = limits
    own, each, reached = 8 // groups, 8 // parts, []
    for some in itertools.combinations(range(groups), limit):
        open_ = [expert for expert in range(8) if expert // own in some]
        chosen = list(itertools.combinations(open_, top_k))
        reached.append(np.mean([len({expert // each for expert in one}) for one in chosen] or [np.nan]))
    if len(open_) < top_k:  # so many that there are enough
        assert limited_hit(parts, 8, top_k, groups, limit) == limited_hit(parts, 8, top_k, groups, -(-top_k // own))
    else:
        assert limited_hit(parts, 8, top_k, groups, limit) == pytest.approx(np.mean(reached))


@given(
    parts=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 48]), groups=st.sampled_from([1, 2, 3, 4, 6, 8, 12]),
    share=st.floats(0, 1), top_k=st.integers(1, 8),
)  # fmt: skip
@settings(max_examples=100)
def test_a_limit_never_spreads_tokens_further(parts, groups, share, top_k):
    limit = 1 + round(share * (groups - 1))
    found = limited_hit(parts, 48, top_k, groups, limit)
    assert 1 - 1e-12 <= found <= expected_hit(parts, 48, top_k) * (1 + 1e-12) <= min(parts, top_k) * (1 + 1e-9)


def test_deepseek_v3_reaches_four_nodes_at_most():
    """Eight groups, on as many nodes, of which a token takes four; arXiv 2412.19437, section 2.1.2."""
    scenario = cl.Scenario.from_dict(
        {
            "model": "deepseek-v3",
            "cluster": {"preset": "hgx-h800", "nodes": 8},
            "plan": {"dp": 64, "ep": 64},
            "workload": {"phase": "prefill", "sequence_length": 128, "global_batch": 64},
        }
    )
    routing = scenario.workload.routing
    assert (routing.groups, routing.per_token) == (8, 4)
    found = routing.spread(256, 8, 64, 8)
    free = UNIFORM.spread(256, 8, 64, 8)
    assert 3.5 < found.nodes < 4
    assert free.nodes > 5
    assert 4 < found.devices < free.devices < 8
    # On fewer nodes groups share one, and some nodes have none of the four.
    assert routing.spread(256, 8, 32, 4).nodes < UNIFORM.spread(256, 8, 32, 4).nodes < 4
    assert routing.spread(256, 8, 8, 1).nodes == 1


def test_a_node_limit_is_a_limit():
    free, two = (Routing(node_limit=n).spread(64, 8, 32, 4) for n in (None, 2))
    assert two.nodes == pytest.approx(expected_hit(2, 32, 8))
    assert two.devices == pytest.approx(expected_hit(16, 32, 8))
    assert two.nodes <= 2 < free.nodes
    assert Routing(node_limit=9).spread(64, 8, 32, 4) == free
    narrow = Routing(node_limit=1, groups=8, per_token=4).spread(64, 8, 32, 4)
    assert narrow == Routing(node_limit=1).spread(64, 8, 32, 4)
    assert narrow.nodes == pytest.approx(1)


# Numbers


def test_what_is_given_goes_before_what_is_known(trace):
    routing = Routing(imbalance=2.5, same_device=0.9, same_node=0.95, trace=trace)
    found = routing.spread(EXPERTS, K, 4, 2)
    assert (found.same_device, found.same_node) == (0.9, 0.95)
    assert routing.load(4) == 2.5
    assert routing.load(1) == 1
    assert np.array_equal(routing.load(np.array([1, 2, 8])), [1, 2.5, 2.5])
    # A token that stays on its device stays on its node.
    assert Routing(same_device=0.8).spread(EXPERTS, K, 8, 2).same_node == 0.8
    assert Routing(same_node=0.1).spread(EXPERTS, K, 2, 2).same_node == 0.5
    alone = Routing(same_device=0.2, same_node=0.2).spread(EXPERTS, K, 1, 1)
    assert (alone.same_device, alone.same_node) == (1, 1)


def test_capacity_pads_and_drops(trace):
    routing = Routing(capacity=1.25, trace=trace)
    assert routing.padding == 1.25
    assert routing.load(8) == 1
    room = int(np.ceil(1.25 * trace.tokens * K / EXPERTS))
    lost = sum(
        max(0, int((trace.experts[:, layer] == expert).sum()) - room)
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
    )
    assert routing.dropped() == pytest.approx(lost / trace.experts.size)
    assert Routing(capacity=1.25).dropped() is None
    assert Routing(trace=trace).dropped() is None


def test_ranks_with_more_experts_have_more_room_to_fill(trace):
    placement = np.array([[0] * 5 + [1] * 3, [1] * 5 + [0] * 3] * 2)
    assert Routing(capacity=2.0, trace=trace, placement=placement).load(2) == pytest.approx(5 / 4)
    assert Routing(capacity=2.0, trace=trace, placement=placement).load(1) == 1


# Traces


def by_hand(trace, device, ranks, nodes):
    """Means over tokens and layers, one at a time."""
    local, devices, hosts, same, near = ranks // nodes, [], [], [], []
    for token in trace.experts:
        for layer, chosen in enumerate(token):
            places = [int(device[layer, expert]) for expert in chosen]
            devices.append(len(set(places)))
            hosts.append(len({place // local for place in places}))
            if layer:
                before = int(device[layer - 1, token[layer - 1][0]])
                same.append(places[0] == before)
                near.append(places[0] // local == before // local)
    return [float(np.mean(numbers)) for numbers in (devices, hosts, same, near)]


@pytest.mark.parametrize(("ranks", "nodes"), [(2, 1), (4, 2), (8, 2), (8, 4)])
def test_a_trace_is_counted(trace, ranks, nodes):
    routing = Routing(trace=trace)
    placed = round_robin(LAYERS, EXPERTS, ranks)
    assert list(routing.spread(EXPERTS, K, ranks, nodes)) == pytest.approx(by_hand(trace, placed, ranks, nodes))
    loads = np.zeros((LAYERS, ranks))
    for token in trace.experts:
        for layer, chosen in enumerate(token):
            for expert in chosen:
                loads[layer, placed[layer, expert]] += 1
    assert routing.load(ranks) == pytest.approx((loads.max(axis=1) / loads.mean(axis=1)).mean())
    assert routing.load(1) == 1


def test_experts_placed_by_affinity_are_nearer(trace):
    plain, placed = (Routing(trace=trace, placement=how) for how in ("round_robin", "affinity"))
    for ranks, nodes in ((4, 1), (4, 2), (8, 2)):
        before, after = (routing.spread(EXPERTS, K, ranks, nodes) for routing in (plain, placed))
        assert after.same_device > before.same_device + 0.1
        counts = [np.bincount(row, minlength=ranks) for row in placed.device(ranks, nodes)]
        assert (np.array(counts) == EXPERTS // ranks).all()
    assert placed.device(4, 2) is placed.device(4, 2)  # found once


def test_answers_for_arrays_are_answers_for_each(trace):
    ranks, nodes = np.array([[1, 2], [8, 4]]), np.array([[1, 1], [4, 2]])
    for routing in (UNIFORM, Routing(trace=trace), Routing(node_limit=1), Routing(same_device=0.3)):
        many = routing.spread(EXPERTS, K, ranks, nodes)
        for place in np.ndindex(2, 2):
            alone = routing.spread(EXPERTS, K, int(ranks[place]), int(nodes[place]))
            assert [number[place] for number in many] == pytest.approx(list(alone))
            assert np.broadcast_to(routing.load(ranks), (2, 2))[place] == pytest.approx(routing.load(int(ranks[place])))


# A scenario's section


def test_a_trace_from_a_file_and_one_made_up_alike(trace, tmp_path):
    made = generate(4096, LAYERS, EXPERTS, K, affinity=0.7, skew=0.8, seed=0)
    save_trace(made, tmp_path / "made.npz")
    read, drawn = (
        case(routing).workload.routing.spread(EXPERTS, K, 4, 1)
        for routing in ({"trace": str(tmp_path / "made.npz")}, {"affinity": 0.7, "skew": 0.8})
    )
    assert read == drawn


def test_files_beside_the_scenario_are_found(trace, tmp_path, monkeypatch):
    import yaml

    save_trace(trace, tmp_path / "seen.npz")
    save_placement(PlacementFile(round_robin(LAYERS, EXPERTS, 4), 4, 1), tmp_path / "placed.json")
    data = case({"affinity": 0.5}).data
    data["workload"]["routing"] = {"trace": "seen.npz", "placement": "placed.json"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    routing = cl.Scenario.load(tmp_path / "s.yaml").workload.routing
    assert routing.trace.tokens == trace.tokens
    assert np.array_equal(routing.placement, round_robin(LAYERS, EXPERTS, 4))


def test_a_better_placement_is_faster_to_decode(trace, tmp_path):
    """Of one expert a token, where the token stays."""
    save_trace(generate(2000, LAYERS, EXPERTS, 1, affinity=0.9, partners=1.0, seed=1), tmp_path / "one.npz")
    model = {**MODEL, "num_experts_per_tok": 1}
    times = [
        cl.estimate(case({"trace": str(tmp_path / "one.npz"), "placement": how}, model=model, techniques=["exflow"]))
        for how in ("round_robin", "affinity")
    ]
    assert times[1].communication_bytes["all_to_all"] < 0.5 * times[0].communication_bytes["all_to_all"]
    assert times[1].time_s <= times[0].time_s


def test_models_without_experts_have_no_routing():
    dense = {"model": "llama-2-7b", "cluster": "dgx-h100", "workload": {"phase": "decode", "sequence_length": 64}}
    assert cl.Scenario.from_dict(dense).workload.routing is UNIFORM
    dense["workload"]["routing"] = {"imbalance": 2.0}
    with pytest.raises(cl.InputError, match=r"workload.routing: llama-2-7b has no experts \(legal: none given, or"):
        cl.Scenario.from_dict(dense)


@pytest.mark.parametrize(
    ("routing", "said"),
    [
        ({"imbalance": 0.5}, "routing.imbalance: '0.5': Input should be greater than or equal to 1"),
        ({"imbalance": "two"}, "routing.imbalance: 'two': Input should be a valid number"),
        ({"imbalance": True}, "routing.imbalance: 'True': Input should be a valid number"),
        ({"imbalance": float("nan")}, "routing.imbalance: 'nan'"),
        ({"imbalance": float("inf")}, "routing.imbalance: 'inf'"),
        ({"capacity": 0}, "routing.capacity: '0'"),
        ({"capacity": -1.0}, "routing.capacity: '-1.0'"),
        ({"node_limit": 0}, "routing.node_limit: '0'"),
        ({"node_limit": 1.5}, "routing.node_limit: '1.5'"),
        ({"same_device": 1.1}, "routing.same_device: '1.1'"),
        ({"same_node": -0.1}, "routing.same_node: '-0.1'"),
        ({"skew": -1}, "routing.skew: '-1'"),
        ({"affinity": 2}, "routing.affinity: '2'"),
        ({"affinity": 0.5, "partners": 0}, "routing.partners: '0'"),
        ({"affinity": 0.5, "tokens": 0}, "routing.tokens: '0'"),
        ({"afinity": 0.5}, "routing.afinity: unknown key"),
        ({"tokens": 100}, "routing.tokens: 100 of no trace (legal: with skew or affinity)"),
        ({"trace": "nowhere.npz"}, "nowhere.npz: cannot be read: No such file"),
        ({"trace": "stdlib-mo"}, "unknown 'stdlib-mo'"),
        ({"trace": "."}, "routing trace: unknown '.'"),
        ({"trace": "seen.npz", "skew": 1.0}, "routing.skew: given beside a trace, which tells (legal: one of them)"),
        ({"trace": "seen.npz", "tokens": 9}, "routing.tokens: given beside a trace, which tells"),
        (
            {"trace": "short.npz"},
            "routing.trace: short.npz has 3 layers with experts, gpt2_moe has 4 (legal: a trace of",
        ),
        ({"trace": "wide.npz"}, "routing.trace: wide.npz has 16 experts, gpt2_moe has 8"),
        ({"trace": "single.npz"}, "routing.trace: single.npz has 1 experts a token, gpt2_moe has 2"),
        ({"placement": "affinity"}, "routing.placement: 'affinity' without routing (legal: give trace, or affinity)"),
        ({"placement": "placed.json"}, "routing.placement: 'placed.json' without routing"),
        ({"affinity": 0.5, "placement": "afinity"}, "routing.placement: 'afinity'; did you mean affinity? (legal: rou"),
        ({"affinity": 0.5, "placement": "none.json"}, "none.json: cannot be read"),
        (
            {"affinity": 0.5, "placement": "eight.json"},
            "routing.placement: on 8 devices, plan.ep is 4 (legal: as many)",
        ),
        ({"affinity": 0.5, "placement": "other.json"}, "other.json is of 2 layers with 8 experts (legal: 4 with 8, as"),
        ({"affinity": 0.5, "placement": "uneven.json"}, "device 0 has 9 of the 32 experts of all layers (legal: 8 on"),
        ({"capacity": 1.0, "imbalance": 2.0}, "routing.imbalance: 2 with capacity 1, which evens out all ranks (legal"),
        ([], "routing: '[]': Input should be a valid mapping"),
    ],
)
def test_bad_input_is_one_line(routing, said, trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_trace(trace, "seen.npz")
    for name, shape in (("short", (3, 8, 2)), ("wide", (4, 16, 2)), ("single", (4, 8, 1))):
        save_trace(generate(20, *shape), f"{name}.npz")
    uneven = round_robin(LAYERS, EXPERTS, 4)
    uneven[0, 2] = 0
    for name, device, devices in (
        ("placed", round_robin(LAYERS, EXPERTS, 4), 4),
        ("eight", round_robin(LAYERS, EXPERTS, 8), 8),
        ("other", round_robin(2, EXPERTS, 4), 4),
        ("uneven", uneven, 4),
    ):
        save_placement(PlacementFile(device, devices, 1), f"{name}.json")
    with pytest.raises(cl.InputError) as caught:
        case(routing)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "legal: " in str(caught.value) or "cannot be read" in str(caught.value)
