"""What a network leaves of its adapters' bandwidth, and what that does to collectives on a cluster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import InputError, load_cluster
from commlens.hardware.fabrics import fat_tree, switch, wan_star
from commlens.simulator import Communicator, network
from commlens.simulator.flows import flow_times
from commlens.simulator.network import share

NIC = 50e9


def test_a_switch_leaves_everything():
    for everyone in (False, True):
        assert share(switch(64, NIC, 0.0), NIC, 8, 64, everyone) == 1.0


@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.0, 8.0])
def test_an_all_to_all_gets_what_its_leaf_lets_out(ratio):
    # Of 120 adapters in other nodes 96 are behind other leaves.
    found = share(fat_tree(128, 32, NIC, 0.0, oversubscription=ratio), NIC, 8, 128, True)
    assert found == pytest.approx(min(1.0, 120 / 96 / ratio))


def test_rings_only_leave_a_leaf_with_its_last_node():
    tree = fat_tree(128, 32, NIC, 0.0, oversubscription=4.0)
    assert share(tree, NIC, 8, 128, False) == 1.0  # 8 of 32 adapters cross, and 8 links' worth is there
    assert share(fat_tree(128, 32, NIC, 0.0, oversubscription=8.0), NIC, 8, 128, False) == pytest.approx(0.5)


def test_rails_keep_rings_below_their_leaf():
    tree = fat_tree(128, 16, NIC, 0.0, oversubscription=64.0, rails=8)
    assert share(tree, NIC, 8, 128, False) == 1.0
    assert share(tree, NIC, 8, 128, True) < 0.05


def test_pods_bind_where_their_spines_do():
    tree = fat_tree(512, 32, NIC, 0.0, leaves_per_pod=4, core_oversubscription=4.0)
    assert share(tree, NIC, 8, 512, True) == pytest.approx(504 / 384 / 4)


@given(st.sampled_from([1.0, 2.0, 4.0]), st.integers(1, 64), st.integers(0, 5), st.booleans())
@settings(max_examples=25)
def test_hashing_never_beats_even_spreading(ratio, queue_pairs, seed, everyone):
    tree = fat_tree(64, 16, NIC, 0.0, oversubscription=ratio)
    hashed = share(tree, NIC, 4, 64, everyone, queue_pairs, seed)
    assert hashed <= share(tree, NIC, 4, 64, everyone) * (1 + 1e-9)


@pytest.mark.parametrize("everyone", [False, True])
def test_the_hashed_share_is_what_flows_take(everyone):
    tree = fat_tree(32, 8, NIC, 0.0, oversubscription=2.0)
    rank = np.arange(32)
    if everyone:
        source, target = (a.ravel() for a in np.meshgrid(rank, rank, indexing="ij"))
        away = source // 4 != target // 4
        source, target = source[away], target[away]
    else:
        source, target = rank, (rank + 4) % 32
    size = 1e9 / np.bincount(source)[source]
    bound = flow_times(tree.resources(tree.paths(source, target)), size, tree.capacity).bound
    assert share(tree, NIC, 4, 32, everyone, queue_pairs=1) == pytest.approx(1e9 / NIC / bound)


def test_a_sample_of_a_large_all_to_all_stands_for_all_of_it(monkeypatch):
    tree = fat_tree(256, 16, NIC, 0.0, oversubscription=2.0)
    whole = share(tree, NIC, 8, 256, True, queue_pairs=2)
    monkeypatch.setattr(network, "_MOST_MESSAGES", 40_000)
    assert share(tree, NIC, 8, 256, True, queue_pairs=2) == pytest.approx(whole, rel=0.1)


def test_a_star_is_as_fast_as_its_slowest_site():
    star = wan_star(4, [10e9, 20e9, 10e9, 10e9], [40e9, 5e9, 40e9, 40e9], 1e-2)
    assert share(star, NIC, 1, 4, False) == pytest.approx(5e9 / NIC)


def clusters(**network):
    base = {"preset": "dgx-h100", "nodes": 16}
    return load_cluster(base), load_cluster({**base, "network": network})


def test_oversubscription_slows_what_crosses_it():
    free, tight = clusters(kind="fat_tree", per_leaf=32, oversubscription=4)
    size = 2.0**30
    times = [Communicator(cluster, 128).all_to_all(size).time for cluster in (free, tight)]
    assert times[1] / times[0] == pytest.approx(4 * 96 / 120, rel=0.02)
    inside = [Communicator(cluster, 8).all_reduce(size).time for cluster in (free, tight)]
    assert inside[0] == inside[1]


def test_distance_adds_to_every_hop():
    free, far = clusters(kind="switch", latency="1 ms")
    for kind in ("all_reduce", "all_to_all", "send_recv"):
        near, distant = (Communicator(cluster, 128).collective(kind, 1024.0).time for cluster in (free, far))
        assert distant - near > 1.9e-3, kind


def test_collisions_slow_a_ring():
    free, hashed = clusters(kind="fat_tree", per_leaf=32, queue_pairs=1)
    ring = [Communicator(c, 128).collective("all_gather", 2.0**32).time for c in (free, hashed)]
    assert ring[1] > 1.5 * ring[0]


def test_a_network_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"network: 16 adapters \(legal: one a device, 128\)"):
        clusters(kind="torus", shape=[4, 4])
    with pytest.raises(InputError, match="did you mean fat_tree"):
        clusters(kind="fat_tre")
    with pytest.raises(InputError, match="per_leaf"):
        clusters(kind="fat_tree", per_leaf=0)


MATRIX = """\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity
GPU0\t X \tNV4\tNODE\tNODE\t0-31\t0
GPU1\tNV4\t X \tNODE\tNODE\t0-31\t0
GPU2\tNODE\tNODE\t X \tNV4\t32-63\t0
GPU3\tNODE\tNODE\tNV4\t X \t32-63\t0
"""


def test_a_machine_may_be_what_it_prints(tmp_path):
    (tmp_path / "topo.txt").write_text(MATRIX)
    (tmp_path / "box.yaml").write_text(
        "device: a100-80-sxm\ndevices_per_node: 4\nlink: nvlink3\nfabric: {kind: topo_matrix, file: topo.txt, sm: 80}\n"
    )
    cluster = load_cluster(str(tmp_path / "box.yaml"))
    pair, all_four = Communicator(cluster, 2), Communicator(cluster, 4)
    # A pair has four of a GPU's twelve links; four GPUs meet at the host bridge.
    assert cluster.share(2) == pytest.approx(4 / 12)
    assert cluster.share(4) < 0.2
    assert all_four.all_gather(2.0**28).time > 2 * pair.all_gather(2.0**28).time
    assert cluster.topology().ranks == 4


def test_a_whole_cluster_is_a_topology():
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 4, "network": {"kind": "fat_tree", "per_leaf": 16}})
    whole = cluster.topology()
    assert whole.ranks == 32
    inside, across = whole.paths([0, 0], [7, 31])
    assert (inside >= 0).sum() == 2
    assert (across >= 0).sum() > 4
