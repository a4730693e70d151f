"""Choice of collective algorithm: wire bounds, limits of the formulas, and what the fabric adds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import load_cluster
from commlens.simulator import all_reduce_time
from commlens.simulator.communicator import Communicator

KINDS = ("all_reduce", "reduce_scatter", "all_gather")
CLUSTERS = ("dgx-h100", "dgx-a100", "pcie-8", "t3-ring", "gb200-nvl72")


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
    link, size = cluster.link, 2.0**33
    cost = Communicator(cluster, 8).all_reduce(size)
    ring = all_reduce_time(8, size, link.bandwidth * link.efficiency, link.bulk_latency)
    assert cost.algorithm == "ring"
    assert cost.time == pytest.approx(link.base_latency + ring)


def test_small_messages_take_the_low_latency_protocol():
    cost = Communicator(load_cluster("dgx-h100"), 8).all_reduce(16384)
    assert cost.algorithm == "ring, low latency"
    assert cost.time == pytest.approx(19e-6, rel=0.1)  # published nccl-tests run, 18.98 us


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
