"""Choice of collective algorithm: wire bounds, limits of the formulas, and what the fabric adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import InputError, load_cluster
from commlens.simulator import algorithm, algorithm_names, all_reduce_time, wire_bound
from commlens.simulator.communicator import Communicator

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")
CLUSTERS = ("dgx-h100", "dgx-a100", "pcie-8", "l40s-pcie", "mi300x-8", "t3-ring", "gb200-nvl72")


@given(st.sampled_from(CLUSTERS), st.sampled_from(KINDS), st.integers(2, 8), st.floats(1, 1e11))
def test_never_faster_than_the_wire(name, kind, ranks, size):
    cluster = load_cluster(name)
    cost = getattr(Communicator(cluster, ranks), kind)(size)
    # every rank must at least send (n - 1) / n of the buffer, unless the switch adds up for it
    least = size if cost.algorithm == "in-switch" else size * (ranks - 1) / ranks
    assert cost.sent_bytes >= least * (1 - 1e-12)
    assert cost.time >= cost.sent_bytes / cluster.link.bandwidth * (1 - 1e-12)


@given(st.sampled_from(KINDS), st.integers(9, 64), st.floats(1, 1e11))
def test_never_faster_than_the_wire_between_nodes(kind, ranks, size):
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 8})
    cost = getattr(Communicator(cluster, ranks), kind)(size)
    # what crosses between two nodes goes over eight adapters at most
    across = size * (1 if kind == "all_reduce" else 0.5) / (cluster.devices_per_node * cluster.nic.bandwidth)
    assert cost.time >= across * (1 - 1e-12)


@given(st.sampled_from(CLUSTERS), st.sampled_from(KINDS), st.integers(2, 8), st.floats(1, 1e10), st.floats(1, 100))
def test_more_bytes_never_take_less_time(name, kind, ranks, size, factor):
    group = Communicator(load_cluster(name), ranks)
    assert getattr(group, kind)(size * factor).time >= getattr(group, kind)(size).time * (1 - 1e-12)


@given(st.floats(1, 1e11))
def test_an_all_reduce_is_at_most_its_two_halves(size):
    group = Communicator(load_cluster("dgx-a100"), 8)
    halves = group.reduce_scatter(size).time + group.all_gather(size).time
    assert group.all_reduce(size).time <= halves * (1 + 1e-12)


def test_large_messages_take_the_ring_at_full_bandwidth():
    cluster = load_cluster("dgx-a100")
    bulk, size = cluster.link.profile.bulk, 2.0**33
    rate = cluster.link.bandwidth * bulk.efficiency
    cost = Communicator(cluster, 8).all_reduce(size)
    assert (cost.algorithm, cost.protocol) == ("ring", "bulk")
    assert cost.time == pytest.approx(all_reduce_time(8, size, rate, bulk.hop, bulk.base) + bulk.copy * size / 8 / rate)


def test_small_messages_take_the_low_latency_protocol():
    cost = Communicator(load_cluster("dgx-h100"), 8).all_reduce(16384)
    assert (cost.algorithm, cost.protocol) == ("ring", "low latency")
    assert cost.time == pytest.approx(18.98e-6, rel=0.15)  # published nccl-tests run


def test_the_switch_reduces_large_messages_where_it_can():
    eight = Communicator(load_cluster("dgx-h100"), 8)
    assert eight.all_reduce(2**29).algorithm == "in-switch"
    assert eight.all_reduce(2**29).time == pytest.approx(2.111e-3, rel=0.05)  # published, NCCL 2.29
    assert Communicator(load_cluster("dgx-h100"), 2).all_reduce(2**29).algorithm == "ring"
    assert eight.all_gather(2**29).algorithm == "ring"


def test_without_peer_to_peer_everything_is_slower():
    direct, around = (Communicator(load_cluster({"preset": "dgx-h100", "p2p": p}), 8) for p in (True, False))
    for size in (2**14, 2**20, 2**26):
        assert around.all_reduce(size).time > direct.all_reduce(size).time


def test_one_rank_and_no_bytes_cost_nothing():
    assert Communicator(load_cluster("dgx-h100"), 1).all_reduce(1e9).time == 0
    assert Communicator(load_cluster("dgx-h100"), 8).all_reduce(0).time == 0


@given(st.integers(2, 16), st.floats(1, 1e9))
def test_near_memory_saves_the_final_pass_only(ranks, size):
    group = Communicator(load_cluster({"preset": "t3-ring", "devices_per_node": 16}), ranks)
    saved = group.reduce_scatter(size).time - group.near_memory_reduce_scatter(size).time
    assert saved == pytest.approx(3 * size / ranks / 1e12, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(("name", "nodes", "ranks"), [("dgx-h100", 1, 5), ("dgx-h100", 4, 32), ("l40s-pcie", 1, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_sizes_costs_what_its_sizes_cost(name, nodes, ranks, kind):
    group = Communicator(load_cluster({"preset": name, "nodes": nodes}), ranks)
    sizes = np.array([0.0, *np.logspace(2, 10, 30)])
    assert group.times(kind, sizes) == pytest.approx([group.collective(kind, size).time for size in sizes])


def test_a_pinned_algorithm_is_taken_and_an_unknown_one_refused():
    group = Communicator(load_cluster("dgx-h100"), 8)
    assert group.collective("all_reduce", 2**29, pinned="ring").algorithm == "ring"
    assert group.collective("all_reduce", 2**29, pinned="ring").time > group.all_reduce(2**29).time
    with pytest.raises(InputError, match=r"'halfing' \(legal: ring, in-switch, .*halving_doubling"):
        group.collective("all_reduce", 2**20, pinned="halfing")


def test_a_pair_in_a_mesh_has_one_link_and_eight_have_all():
    cluster = load_cluster("mi300x-8")
    assert cluster.share(2) == pytest.approx(1 / 7)
    assert cluster.share(8) == pytest.approx(1.0)


def test_a_message_in_a_mesh_has_one_link_however_many_take_part():
    cluster = load_cluster("mi300x-8")
    two, eight = (Communicator(cluster, n).collective("send_recv", 2.0**30).time for n in (2, 8))
    assert two == eight > 2.0**30 / (cluster.link.bandwidth / 7)


def test_half_duplex_halves_a_ring():
    full, half = (load_cluster({"preset": "pcie-8", "link": {"duplex": duplex}}) for duplex in ("full", "half"))
    times = [Communicator(cluster, 4).collective("all_gather", 2.0**30).time for cluster in (full, half)]
    assert times[1] == pytest.approx(2 * times[0], rel=0.01)


def test_ranks_behind_one_uplink_share_it():
    cluster = load_cluster("l40s-pcie")
    assert cluster.share(2) == 1.0
    assert cluster.share(8) == pytest.approx(cluster.uplink / cluster.link.bandwidth)
    # in an all-to-all both devices of a switch send 6 of 7 parts over the uplink
    assert cluster.share(8, everyone=True) == pytest.approx(cluster.uplink / cluster.link.bandwidth / (2 * 6 / 7))


def test_a_cluster_may_pin_algorithms():
    free = Communicator(load_cluster("dgx-h100"), 8)
    pinned = Communicator(load_cluster({"preset": "dgx-h100", "pin": {"all_reduce": "halving_doubling"}}), 8)
    assert pinned.all_reduce(2**20).algorithm == "halving_doubling"
    assert pinned.all_gather(2**20) == free.all_gather(2**20)
    assert pinned.all_reduce(2**29).time > free.all_reduce(2**29).time
    part = pinned.cluster.link.profile.low
    small = algorithm("halving_doubling").time(
        "all_reduce", 8, 1024, part.efficiency * pinned.cluster.link.bandwidth, part.hop, part.base
    )
    assert pinned.all_reduce(1024).time == pytest.approx(small)


@pytest.mark.parametrize("nodes", [1, 4])
def test_every_algorithm_that_may_be_pinned_stays_above_the_wire(nodes):
    cluster = load_cluster({"preset": "dgx-h100", "nodes": nodes})
    group = Communicator(cluster, 8 * nodes)
    for kind in KINDS:
        for name in algorithm_names(kind):
            if name in ("torus", "in_switch"):
                with pytest.raises(InputError, match="no algorithm"):
                    group.collective(kind, 1e8, name)
                continue
            cost = group.collective(kind, 1e8, name)
            assert cost.time >= wire_bound(kind, group.size, 1e8, cluster.link.bandwidth), name


@given(st.sampled_from([1, 2, 4, 6, 8, 72]), st.integers(1, 100), st.integers(1, 100))
def test_a_strided_group_counts_its_ranks_by_node(per_node, size, stride):
    base = load_cluster({"preset": "dgx-h100", "nodes": 2})
    group = Communicator(base.replace(devices_per_node=per_node, nodes=10_000), size, stride)
    there = np.bincount(np.arange(size) * stride // per_node)
    assert group.local == there.max()
    assert group.nodes == np.count_nonzero(there)


@given(
    st.sampled_from(KINDS), st.sampled_from([2, 4, 8]), st.sampled_from([(1, 8), (2, 4), (4, 2)]), st.floats(1, 1e11)
)
def test_a_strided_group_is_one_of_nodes_with_fewer_devices(kind, nodes, split, size):
    stride, per_node = split
    cluster = load_cluster({"preset": "dgx-h100", "nodes": nodes})
    few = Communicator(cluster.replace(devices_per_node=per_node), per_node * nodes)
    strided = Communicator(cluster, per_node * nodes, stride)
    assert strided.collective(kind, size) == few.collective(kind, size)


def test_one_rank_a_node_needs_the_adapter_alone():
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 4})
    alone, neighbours = Communicator(cluster, 4, stride=8), Communicator(cluster, 4)
    assert (alone.local, alone.nodes) == (1, 4)
    assert alone.all_gather(2.0**30).time >= 2.0**30 * 3 / 4 / cluster.nic.bandwidth
    assert alone.all_gather(2.0**30).time > 3 * neighbours.all_gather(2.0**30).time
    # farther apart there is still one a node
    assert Communicator(cluster.replace(nodes=8), 4, stride=16).all_gather(1e9) == alone.all_gather(1e9)


def test_a_strided_group_inside_a_node_takes_no_adapter():
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 2})
    group = Communicator(cluster, 4, stride=2)
    assert (group.local, group.nodes) == (4, 1)
    assert group.all_reduce(2.0**28) == Communicator(cluster, 4).all_reduce(2.0**28)


def test_groups_side_by_side_share_what_joins_their_halves_of_a_host():
    cluster = load_cluster("pcie-8")
    assert cluster.share(2) == cluster.share(4) == 1.0
    assert cluster.share(2, stride=4) == pytest.approx(1 / 4)  # four pairs, each with a card behind either switch
    assert load_cluster("t3-ring").share(4, stride=2) == pytest.approx(1 / 2)
    assert load_cluster("dgx-h100").share(2, stride=4) == 1.0


def test_a_strided_group_has_what_all_groups_leave_of_a_network():
    base = {"preset": "dgx-h100", "nodes": 16}
    tree = {"kind": "fat_tree", "per_leaf": 32, "oversubscription": 8, "latency": "1 us"}
    near, far = load_cluster(base), load_cluster({**base, "network": tree})
    whole, apart = Communicator(far, 128), Communicator(far, 16, stride=8)
    assert apart.across("bulk") == whole.across("bulk")
    assert apart.adapter_rate(apart.across("bulk")) == whole.adapter_rate(whole.across("bulk"))
    assert apart.all_gather(2.0**30).time > 1.9 * Communicator(near, 16, stride=8).all_gather(2.0**30).time


def test_a_group_builds_its_network_once(monkeypatch):
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 4, "network": {"kind": "fat_tree", "per_leaf": 16}})
    built = []
    build = type(cluster).network_topology
    monkeypatch.setattr(type(cluster), "network_topology", lambda self: built.append(self) or build(self))
    group = Communicator(cluster, 32)
    for kind in KINDS:
        assert group.collective(kind, 2.0**28).time > 0
    assert built == [cluster]
