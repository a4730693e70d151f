"""TokenRing: what goes which way, over which links, and when it loses."""

from __future__ import annotations

import itertools

import pytest

from commlens.hardware import load_cluster
from commlens.hardware.errors import InputError
from commlens.models.blocks import Attend
from commlens.models.build import Builder
from commlens.models.groups import process_groups
from commlens.models.kernels import Kernels
from commlens.models.plan import Plan
from commlens.models.routed import Routed
from commlens.models.software import load_software
from commlens.models.techniques.sequence_parallel.tokenring import STATISTIC, rows, tokenring
from commlens.simulator import run

WIDTH = 128


def played(cluster, ranks, kv_heads=32, causal=True, direction="forward", layout="zigzag", routed=True, tokens=8192):
    """One attention over `ranks` devices; (program, trace)."""
    cluster = load_cluster(cluster)
    kernels = Kernels(cluster.device, load_software("ideal"), "bf16")
    groups = process_groups(cluster, Plan(cp=ranks))
    build = Routed("x", cluster, kernels, groups) if routed else Builder("x", cluster, kernels, 1, groups=groups)
    core = Attend(1, tokens, tokens * ranks, 32, kv_heads, WIDTH, WIDTH, causal=causal, direction=direction)
    tokenring(core, build, build.start, layout=layout)
    return build.program, run(build.program)


def sent(program, rank, stream):
    """Bytes a rank sends on a stream."""
    return sum(t.info["communication_bytes"] for t in program.tasks if t.rank == rank and t.stream == stream)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
def test_without_mask_every_rank_sends_its_rows_each_way_to_all_others(ranks):
    program, _ = played("dgx-h100", ranks, causal=False)
    row = 8192 * 32
    for rank in range(ranks):
        assert sent(program, rank, "queries") == pytest.approx((ranks - 1) * row * WIDTH * 2)
        assert sent(program, rank, "outputs") == pytest.approx((ranks - 1) * row * (WIDTH * 2 + STATISTIC))


@pytest.mark.parametrize("kv_heads", [1, 4, 32])
def test_key_and_value_heads_change_nothing_that_is_sent(kv_heads):
    program, _ = played("dgx-h100", 4, kv_heads=kv_heads, causal=False)
    assert sent(program, 0, "queries") == pytest.approx(3 * 8192 * 32 * WIDTH * 2)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_the_mask_leaves_half_of_the_scores_wherever_they_are(ranks, layout):
    # The diagonal counts half of its block; the parts of all ranks add up to half of the square.
    found = 0.0
    for owner, holder in itertools.product(range(ranks), repeat=2):
        q, k = rows(True, layout, ranks, owner, holder)
        found += q * k * (0.5 if owner == holder else 1.0)
    assert found == pytest.approx(ranks**2 / 2)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_zigzag_sends_queries_whole_to_the_ranks_before_their_owner(ranks):
    program, _ = played("dgx-h100", ranks)
    whole = 8192 * 32 * WIDTH * 2
    total = sum(sent(program, rank, "queries") for rank in range(ranks))
    # An owner's queries travel down: whole as often as there are ranks before it, then halves.
    assert total == pytest.approx(sum(o + (ranks - 1 - o) / 2 for o in range(ranks)) * whole)


@pytest.mark.parametrize("ranks", [3, 4, 6])
def test_on_a_plain_ring_outputs_load_every_link_of_their_way(ranks):
    program, _ = played({"preset": "ring", "devices_per_node": ranks}, ranks, causal=False)
    load = program.totals()
    shape = 8192 * 32
    # An output at distance k takes min(k, P - k) links, the shorter way round.
    steps = [min(k, ranks - k) for k in range(1, ranks)]
    expected = (ranks - 1) * shape * WIDTH * 2 * ranks + sum(steps) * shape * (WIDTH * 2 + STATISTIC) * ranks
    links = sum(amount for name, amount in load.items() if "->" in name)
    assert links == pytest.approx(expected)


def test_one_rank_stands_for_all_where_the_fabric_treats_them_alike():
    _, every = played("dgx-h100", 4, causal=False)
    _, one = played("dgx-h100", 4, causal=False, routed=False)
    assert one.makespan == pytest.approx(every.makespan, rel=0.02)


def test_half_duplex_is_slower():
    full = played("pcie-8", 8)[1].makespan
    half = played({"preset": "pcie-8", "link": {"preset": "pcie4", "duplex": "half"}}, 8)[1].makespan
    assert half > full * 1.2


def test_the_backward_pass_carries_more_and_takes_longer():
    forward, first = played("dgx-h100", 4)
    backward, second = played("dgx-h100", 4, direction="backward")
    assert sent(backward, 1, "queries") > 1.9 * sent(forward, 1, "queries")
    assert second.makespan > first.makespan


def test_more_ranks_than_the_node_has_are_refused_unfolded():
    with pytest.raises(InputError, match=r"plan.cp: 16 .*legal"):
        played("dgx-h100", 16)
