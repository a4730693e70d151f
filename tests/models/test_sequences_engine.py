"""Costs of sequences from a scenario, and plans run in the engine."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens import InputError, Scenario
from commlens.hardware import load_cluster
from commlens.models.sequences.batch import batch_of
from commlens.models.sequences.corpora import load_corpus
from commlens.models.sequences.cost_file import load_sequence_costs, sequence_cost_names
from commlens.models.sequences.costs import ScenarioCosts, Weights
from commlens.models.sequences.drawing import _runs
from commlens.models.sequences.pieces import Ring
from commlens.models.sequences.program import SEGMENTS, Piece, Ports, lay
from commlens.models.sequences.report import report
from commlens.models.sequences.run import METHODS, compare_sequences, plan_sequences
from commlens.simulator import Program, run
from commlens.solvers.bytescale import played
from commlens.solvers.sequences import SequencePlan, Share
from commlens.solvers.static_sequences import plan_static


def scenario(model="llama-2-7b", cluster="dgx-a100", nodes=8, **plan):
    return Scenario.from_dict(
        {
            "model": model,
            "cluster": {"preset": cluster, "nodes": nodes},
            "plan": {"zero": 3, "recompute": "full", **plan},
            "workload": {"phase": "training", "sequence_length": 8192},
        }
    )


@pytest.fixture(scope="module")
def costs():
    return ScenarioCosts(scenario())


# -- costs ---------------------------------------------------------------------------------------------------


def test_three_numbers_are_what_the_model_composes(costs):
    assert costs.passes[2] < 0.005


def test_a_multi_head_layer_exchanges_what_flexsp_counts():
    whole = ScenarioCosts(scenario(recompute="none")).sequence
    assert whole.exchanged == 8 * 32 * 4096 * 2 == load_sequence_costs("flexsp-gpt-7b").sequence.exchanged


def test_full_recomputation_repeats_the_forward_exchange(costs):
    assert costs.sequence.exchanged == 12 * 32 * 4096 * 2


def test_few_key_heads_are_copied_for_many_ranks():
    grouped = ScenarioCosts(scenario("llama-3.1-8b", recompute="none"))
    # 32 query heads of 128 and 8 key and value heads, which 32 ranks need 4 copies of: as many as query heads.
    assert sum(grouped._tensors(1)) == 2 * (2 * 32 + 2 * 8) * 128
    assert sum(grouped._tensors(32)) == 2 * 4 * 32 * 128
    assert grouped.sequence.degrees == (1, 2, 4, 8, 16, 32)


def test_nothing_computes_faster_than_the_device(costs):
    peak = costs.scenario.cluster.device.peak_flops["bf16"]
    forward = 2 * 4096 * 32 / peak  # 4 s^2 h a layer, half of it masked
    assert costs.passes[0][0] > forward
    assert costs.passes[0][1] > 2 * costs.scenario.model.parameters() / peak * 0.9
    assert costs.sequence.quadratic == pytest.approx(costs.passes[0][0] + costs.passes[1][0])


def test_hybrid_and_grouped_costs_compute_alike(costs):
    lengths = np.array([1000.0, 30_000.0])
    assert costs.hybrid.compute(lengths, 4) == pytest.approx(costs.sequence.compute(lengths, 4))
    assert costs.hybrid.capacity == int(costs.sequence.tokens)
    assert costs.sequence.fixed == pytest.approx(costs.hybrid.fixed + costs.weights.first + costs.weights.last)


def test_a_ring_inside_a_node_is_faster_than_one_across(costs):
    ring = Ring(costs, np.array([40_000.0]))
    inside, across = ring(Share(tuple(range(4)), (0,))), ring(Share((6, 7, 8, 9), (0,)))
    sent = 3 * 10_000 * 2 * 4096 * 2 * 32  # three steps of keys and values of a rank's tokens, 2 bytes each, 32 layers
    for one, other, wider in zip(inside, across, (1.0, 2.0), strict=True):
        assert one.message < other.message
        assert (one.beside, one.alone) == (other.beside, other.alone)
        assert one.nic_bytes == 0
        assert one.link_bytes == pytest.approx(wider * sent)
        assert other.nic_bytes == pytest.approx(wider * sent / 2)  # two of four hops
    assert across[0].message == pytest.approx(3 * 10_000 * costs.hybrid.exchange)


def test_planned_bandwidth_is_that_of_a_full_rank(costs):
    full = costs.sequence.tokens
    for degree in (2, 8, 32):
        tokens = full * degree
        assert costs.sequence.exchange([tokens], degree) == pytest.approx(costs.exchange(np.array([tokens]), degree))
    assert costs.exchange(np.array([1e5]), 1) == 0
    inside, across = costs.exchanged(1e5, 16)
    assert across / (inside + across) == pytest.approx(8 / 15)


def test_a_faster_fabric_never_exchanges_slower():
    slow, fast = (
        ScenarioCosts(replace(s, cluster=s.cluster.replace(nic=replace(s.cluster.nic, bandwidth=rate))))
        for s in [scenario()]
        for rate in (12.5e9, 50e9)
    )
    for degree in (2, 16, 32):
        assert fast.exchange(np.array([1e5]), degree) <= slow.exchange(np.array([1e5]), degree)
    assert fast.ring_seconds(True) < slow.ring_seconds(True)
    assert fast.ring_seconds(False) == slow.ring_seconds(False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zero": 0, "recompute": "none"}, r"plan: weights, gradients and optimizer .* \(legal: a higher zero"),
        ({"pp": 2}, r"plan.pp: 2 .* \(legal: 1, or method bytescale"),
    ],
)
def test_what_cannot_be_planned_is_one_line(changes, said):
    with pytest.raises(InputError, match=said):
        _ = ScenarioCosts(scenario("llama-2-13b", **changes)).sequence


def test_only_training_is_planned():
    case = Scenario.from_dict(
        {"model": "llama-2-7b", "cluster": "dgx-a100", "workload": {"phase": "prefill", "sequence_length": 8}}
    )
    with pytest.raises(InputError, match=r"workload.phase: prefill, .* \(legal: training\)"):
        ScenarioCosts(case)


def test_published_costs_and_their_errors(tmp_path):
    assert sequence_cost_names() == ["flexsp-gpt-13b", "flexsp-gpt-30b", "flexsp-gpt-7b"]
    found = load_sequence_costs("flexsp-gpt-7b").sequence
    assert found.tokens == pytest.approx(6450, rel=0.01)  # 384K then needs 64 ranks, 192K 32
    # ms = bytes / 2^20 / d / v of the published code, for 128K tokens on 16 ranks
    assert found.exchange([131072], 16)[0] * 1e3 == pytest.approx(8 * 32 * 4096 * 131072 * 2 / 2**20 / 16 / 10.33)
    with pytest.raises(InputError, match="did you mean flexsp-gpt-7b"):
        load_sequence_costs("flexsp-gpt-7")
    (tmp_path / "a.yaml").write_text("ranks: 8\nquadratic: 1 ns\nlinear: -1\n")
    with pytest.raises(InputError, match=r"a\.yaml: linear"):
        load_sequence_costs(tmp_path / "a.yaml")


# -- engine --------------------------------------------------------------------------------------------------


def plan_of(*micro_batches, ranks, barrier=True):
    shares = [tuple(Share(tuple(group), (i,)) for i, group in enumerate(some)) for some in micro_batches]
    return SequencePlan("hand", ranks, tuple(shares), 0.0, barrier=barrier)


@pytest.mark.parametrize("method", ["static", "adaptive", "flexsp", "packed"])
def test_without_contention_the_engine_takes_what_was_planned(method):
    found = plan_sequences(
        None, "commoncrawl-like", method, costs="flexsp-gpt-13b", batch=128, max_length=192_000, time_limit=1
    )
    assert found.time_s == pytest.approx(found.planned_s, rel=1e-9)


def test_rings_inside_one_node_take_what_was_planned():
    case = scenario(nodes=1, zero=2)
    found = plan_sequences(case, "byted-like", "bytescale", batch=64, max_length=60_000)
    assert found.time_s - ScenarioCosts(case).weights.once == pytest.approx(found.planned_s, rel=1e-9)


def test_a_barrier_waits_for_the_slowest():
    plan = plan_of(([0], [1]), ([0], [1]), ranks=2)
    times = {(0,): 1.0, (1,): 3.0}
    laid = lay(plan, lambda share: [Piece(0, times[share.ranks] / SEGMENTS, 0, False)] * SEGMENTS, Weights(), 0.5, None)
    found = report(plan, batch_of([5, 5]), laid, run(laid.program), "hand", 1)
    assert found.time_s == 7.0
    assert found.compute_share == pytest.approx((2 * 4.0 + 4 * 0.5) / 14)
    assert found.idle_share == pytest.approx(1 - 10 / 14)


def test_without_a_barrier_a_group_waits_for_its_ranks_alone():
    plan = plan_of(([0], [1]), ([0, 1],), ([0], [1]), ranks=2, barrier=False)
    times = {(0,): 1.0, (1,): 3.0, (0, 1): 2.0}
    laid = lay(plan, lambda share: [Piece(0, times[share.ranks], 0, False)], Weights(), 0.0, None)
    ends = run(laid.program).end[[compute[-1] for compute, _ in laid.tasks]]
    assert ends.tolist() == [1, 3, 5, 6, 8]


@pytest.mark.parametrize(("work", "message", "time"), [(2.0, 1.0, 8.0), (2.0, 3.0, 11.0), (0.0, 3.0, 9.0)])
def test_a_ring_is_as_slow_as_the_slower(work, message, time):
    """Four ranks: three steps of the slower, and a last block with nothing to send."""
    plan = plan_of(([0, 1, 2, 3],), ranks=4, barrier=False)
    laid = lay(plan, lambda share: [Piece(3 * work, work, 3 * message, True)], Weights(), 0.0, None)
    assert run(laid.program).makespan == time == 3 * max(work, message) + work


@pytest.mark.parametrize(("beside", "time"), [(2.0, 8.0), (8.0, 8.0), (12.0, 12.0)])
def test_weights_hold_up_what_is_faster(beside, time):
    plan = plan_of(([0], [1]), ranks=2)
    laid = lay(
        plan, lambda share: [Piece(0, 2.0, 0, False)] * SEGMENTS, Weights(0.5, beside, 0.25, once=1.0), 0.0, None
    )
    found = report(plan, batch_of([5, 5]), laid, run(laid.program), "hand", 1)
    assert found.time_s == pytest.approx(0.5 + time + 0.25 + 1.0)
    assert found.weights_share == pytest.approx(1.75 / found.time_s)


def test_weights_are_not_gathered_before_all_are_there():
    plan = plan_of(([0], [1]), ranks=2)
    pieces = {0: [Piece(0, seconds, 0, False) for seconds in (4.0, 0.0, 0.0, 0.0)], 1: [Piece(0, 0, 0, False)] * 4}
    laid = lay(plan, lambda share: pieces[share.ranks[0]], Weights(beside=8.0), 0.0, None)
    assert run(laid.program).makespan == pytest.approx(4 + 3 * 2)


def test_shares_of_time_are_weighed_by_ranks():
    plan = plan_of(([0, 1, 2], [3]), ranks=4, barrier=False)
    pieces = {3: [Piece(2.0, 1.0, 5.0, True)], 1: [Piece(0.0, 1.0, 3.0, False)]}  # 5 + 1 s and 1 + 3 s
    laid = lay(plan, lambda share: pieces[len(share.ranks)], Weights(), 0.0, None)
    found = report(plan, batch_of([5, 5]), laid, run(laid.program), "hand", 1)
    assert found.time_s == 6.0
    assert found.compute_share == pytest.approx((3 * 3 + 1) / 24)
    assert found.exchange_share == pytest.approx((3 * 3 + 3) / 24)
    assert found.groups == ({3: 1, 1: 1},)


def test_groups_of_one_node_share_its_links():
    cluster = load_cluster("dgx-h100").replace(nodes=2)
    plan = plan_of(([0, 1, 2, 3], [4, 5, 6, 7]), ranks=16)
    full = cluster.link.bandwidth
    for part, slower in ((0.5, 1.0), (1.0, 1.0), (1.5, 1.5)):
        # A group of half the node that could fill more than half of its links alone.
        piece = Piece(0, 0, 1.0, False, part * full)
        laid = lay(plan, lambda share, piece=piece: [piece] * SEGMENTS, Weights(), 0.0, cluster)
        assert run(laid.program).makespan == pytest.approx(SEGMENTS * slower)


def test_weights_and_exchanges_share_adapters():
    cluster = load_cluster("dgx-h100").replace(nodes=2)
    plan = plan_of(([*range(16)],), ranks=16)
    full = cluster.nic.bandwidth
    pieces = [Piece(0, 0, 1.0, False, 0.0, 0.8 * full)] * SEGMENTS
    laid = lay(plan, lambda share: pieces, Weights(0, SEGMENTS, 0, 0.0, SEGMENTS * 0.8 * full), 0.0, cluster)
    assert run(laid.program).makespan == pytest.approx(SEGMENTS * 1.6)


def test_nodes_of_a_group():
    ports = Ports(Program("x"), load_cluster("dgx-h100").replace(nodes=8))
    assert ports.nodes(range(2, 6)) == {0: 4}
    assert ports.nodes(range(4, 36)) == {0: 4, 4: 4, 1: 8}  # nodes 1, 2 and 3 carry the same: one stands for them
    assert Ports(Program("x"), load_cluster("dgx-h100").replace(nodes=8), tp=4).nodes([1, 2]) == {0: 4, 1: 4}
    assert Ports(Program("x"), load_cluster("dgx-h100").replace(nodes=8), tp=4).nodes([0, 1], 4) == {2: 8}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), pp=st.sampled_from([1, 2, 4]))
def test_stages_of_a_pipeline_follow_each_other_as_the_solver_has_it(seed, pp):
    priced = ScenarioCosts(scenario("llama-3.1-8b", "dgx-h100", 1, tp=2, pp=pp, zero=1))
    found = plan_sequences(scenario("llama-3.1-8b", "dgx-h100", 1, tp=2, pp=pp, zero=1), "github-like", "bytescale",
                           batch=24, seed=seed, max_length=65_536)  # fmt: skip
    note = next(text for text in found.plan.notes if text.startswith("up to"))
    costs = replace(priced.hybrid, capacity=int(note.split()[2]))
    assert found.planned_s == pytest.approx(played(found.plan, costs, found.batch.lengths, pp).max())
    assert found.time_s - priced.weights.once == pytest.approx(found.planned_s, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_shares_add_up_and_reports_are_plain(method):
    found = plan_sequences(scenario(nodes=2), "github-like", method, batch=64, max_length=32_768, time_limit=1)
    shares = [found.compute_share, found.exchange_share, found.weights_share, found.idle_share]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= 0
    assert found.time_s >= found.planned_s * 0.9
    assert sum(d * n for some in found.groups for d, n in some.items()) == sum(len(s.ranks) for s in found.laid.shares)
    read = json.loads(json.dumps(found.to_dict()))
    assert read["tokens"] == found.batch.tokens
    assert read["tokens_per_second"] == pytest.approx(read["tokens"] / read["time_s"])
    for word in (method, "planned", "simulated", "idle", "64 sequences"):
        assert word in found.summary()
    assert found.spans().shape == (len(found.laid.shares), 2)


def test_the_same_seed_is_the_same_report():
    one, two = (plan_sequences(scenario(nodes=1), "wikipedia", "bytescale", batch=64) for _ in range(2))
    assert {**one.to_dict(), "solver_s": 0} == {**two.to_dict(), "solver_s": 0}


def test_neither_adaptive_nor_mixed_plans_are_slower_than_the_static_one():
    frame, _ = compare_sequences(
        scenario(recompute="none"),
        "commoncrawl-like",
        ["static", "adaptive", "flexsp"],
        max_length=192_000,
        time_limit=1,
    )
    assert (frame["planned_s"] <= frame.loc["static", "planned_s"]).all()


def test_a_picture_has_a_patch_for_every_sequence():
    found = plan_sequences(None, [4096, 512, 512, 100], "static", costs="flexsp-gpt-7b")
    ax = found.plot()
    drawn, outlines = ax.collections
    assert len(drawn.get_paths()) == 4
    assert len(outlines.get_paths()) == len(found.laid.shares)
    assert ax.get_ylim() == (64, 0)
    assert "tokens" in ax.figure.axes[1].get_ylabel()
    assert _runs(np.array([5, 1, 2, 9, 8])) == [(1, 3), (5, 6), (8, 10)]


def test_all_methods_in_a_table():
    frame, found = compare_sequences(scenario(nodes=1), "wikipedia", batch=64, time_limit=1)
    assert list(frame.index) == list(METHODS) == list(found)
    assert frame.loc["flexsp", "time_s"] <= frame.loc["static", "time_s"] * 1.01
    assert frame.loc["static", "speedup"] == 1
    frame, found = compare_sequences(None, "wikipedia", costs="flexsp-gpt-7b", batch=64, time_limit=1)
    assert set(frame["error"].dropna().index) == {"bytescale", "megascale"}


def test_a_time_limit_gives_the_best_plan_known():
    found = plan_sequences(None, "commoncrawl-like", costs="flexsp-gpt-7b", max_length=192_000, time_limit=0.0)
    assert found.plan.status == "time limit"
    static = plan_sequences(None, "commoncrawl-like", "static", costs="flexsp-gpt-7b", max_length=192_000)
    assert found.time_s <= static.time_s


def test_planners_take_a_batch_as_it_is():
    batch, costs = load_corpus("wikipedia").batch(32), load_sequence_costs("flexsp-gpt-7b").sequence
    assert plan_static(batch, costs, 64).time == plan_static(batch.lengths, costs, 64).time


def test_techniques_of_a_scenario_are_said_to_be_left_out():
    found = plan_sequences(scenario(nodes=1).with_techniques(["t3"]), [100, 200], "static")
    assert any(note.startswith("without t3") for note in found.plan.notes)


def test_too_long_a_sequence_names_the_smallest_degree():
    with pytest.raises(InputError, match=r"lengths\[1\]: 900000 tokens need groups of 256 ranks or more"):
        plan_sequences(None, [10, 900_000], costs="flexsp-gpt-7b")
