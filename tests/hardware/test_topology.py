"""Topologies as such: what they hold, say and lose when links fail."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import InputError
from commlens.hardware.fabrics import fat_tree, full_mesh, leaf_spine, pcie_tree, ring, switch, torus
from commlens.hardware.topology import Topology
from commlens.hardware.wiring import Wiring


def pair(**options) -> Topology:
    wiring = Wiring("pair")
    a, b = wiring.devices(2)
    wiring.join(a, b, 10e9, 1e-6, **options)
    return wiring.topology()


def everyone(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    source, target = np.indices((topology.ranks, topology.ranks)).reshape(2, -1)
    return source, target


def test_links_and_resources_of_both_duplexes():
    full, half = pair(), pair(duplex="half")
    assert full.links == half.links == 2
    assert full.resource_names == ("gpu0->gpu1", "gpu1->gpu0")
    assert half.resource_names == ("gpu0-gpu1",)
    assert full.capacity.tolist() == [10e9, 10e9]
    assert half.capacity.tolist() == [10e9]
    both = [(0, 1), (1, 0)]
    assert [t.resources(t.paths(*zip(*both, strict=True))).ravel().tolist() for t in (full, half)] == [[0, 1], [0, 0]]


def test_directions_may_differ():
    topology = pair(back_bandwidth=1e9)
    assert topology.bandwidth.tolist() == [10e9, 1e9]
    assert topology.capacity[topology.resources(topology.paths(1, 0))].tolist() == [[1e9]]


@pytest.mark.parametrize("wrong", [
    {"bandwidth": 0.0, "latency": 0.0}, {"bandwidth": np.inf, "latency": 0.0}, {"bandwidth": 1.0, "latency": -1.0},
    {"bandwidth": 1.0, "latency": 0.0, "cost": 0},
    {"bandwidth": 1.0, "latency": 0.0, "duplex": "half", "back_bandwidth": 2.0},
])  # fmt: skip
def test_cables_that_cannot_be(wrong):
    wiring = Wiring("wrong")
    with pytest.raises(ValueError, match="link"):
        wiring.join(*wiring.devices(2), **wrong)


def test_devices_come_first_whenever_they_are_added():
    wiring = Wiring("late")
    center = wiring.vertex("center")
    first = wiring.device(model="a")
    wiring.join(first, center, 1.0, 0.0)
    second = wiring.device(model="b")
    wiring.join(center, second, 2.0, 0.0)
    topology = wiring.topology()
    assert topology.vertices == ("gpu0", "gpu1", "center")
    assert topology.kinds == ("device", "device", "switch")
    assert [topology.link_name(link) for link in topology.paths(0, 1)[0]] == ["gpu0->center", "center->gpu1"]
    assert topology.bandwidth[topology.paths(0, 1)].tolist() == [[1.0, 2.0]]


def test_latency_and_load_of_paths():
    topology = switch(4, 10e9, 2e-6)
    paths = topology.paths([0, 1, 2], [1, 1, 1], 0)
    np.testing.assert_allclose(topology.path_latency(paths), [4e-6, 0.0, 4e-6])
    load = dict(zip(topology.resource_names, topology.loads(paths, [5.0, 7.0, 9.0]), strict=True))
    assert {name: amount for name, amount in load.items() if amount} == {
        "gpu0->switch0": 5.0, "gpu2->switch0": 9.0, "switch0->gpu1": 14.0,
    }  # fmt: skip


def test_ranks_are_checked():
    with pytest.raises(ValueError, match="within 0 and 3"):
        switch(4, 1e9, 0.0).paths(0, 4)
    with pytest.raises(ValueError, match="within 0 and 3"):
        switch(4, 1e9, 0.0).paths([-1], [2])


def test_no_messages_no_paths():
    for topology in (switch(4, 1e9, 0.0), ring(4, 1e9, 0.0), full_mesh(1, 1e9, 0.0)):
        assert topology.paths([], []).shape == (0, 0)
        assert topology.paths(0, 0).shape == (1, 0)


def test_graph_is_the_same_network():
    topology = pcie_tree(5, 32e9, 1e-6, duplex="half")
    graph = topology.graph()
    assert graph.nodes["gpu3"]["rank"] == 3
    assert graph.nodes["bridge0"]["kind"] == "bridge"
    assert graph.number_of_edges() == topology.links
    assert graph.edges["gpu0", "pcie0"]["resource"] == graph.edges["pcie0", "gpu0"]["resource"] == "gpu0-pcie0"
    for a, b, edge in graph.edges(data=True):
        (link,) = edge["links"]
        assert topology.link(a, b) == link
        assert edge["bandwidth"] == topology.bandwidth[link]


def test_cables_in_parallel_are_told_apart():
    wiring = Wiring("bundle")
    a, b = wiring.devices(2)
    for _ in range(3):
        wiring.join(a, b, 10e9, 1e-6)
    topology = wiring.topology()
    assert topology.resource_names[::2] == ("gpu0->gpu1", "gpu0->gpu1#2", "gpu0->gpu1#3")
    assert len(set(topology.resource_names)) == 6
    assert topology.graph().edges["gpu0", "gpu1"]["bandwidth"] == 30e9
    assert set(topology.paths(0, np.ones(64, dtype=int), np.arange(64)).ravel()) == {0, 2, 4}
    assert topology.without([0, 2]).paths(0, 1).tolist() == [[4]]


def test_names_that_do_not_exist():
    topology = switch(4, 1e9, 0.0)
    with pytest.raises(InputError, match=r"no vertex 'gpu9'; did you mean gpu"):
        topology.between("gpu9", "gpu0")
    with pytest.raises(InputError, match="no link leads from gpu0 to gpu1"):
        topology.link("gpu0", "gpu1")
    with pytest.raises(InputError, match=r"link 99 does not exist \(legal: 0 to 7\)"):
        topology.without([99])


def test_failed_links_carry_nothing_and_keep_their_numbers():
    topology = fat_tree(16, 4, 50e9, 1e-6)
    broken = topology.without([("leaf0", "spine0"), ("leaf1", "spine2")])
    assert broken.failed.sum() == 4
    assert not topology.failed.any()
    np.testing.assert_array_equal(broken.capacity, topology.capacity)
    assert broken.resource_names == topology.resource_names
    assert not broken.graph().has_edge("leaf0", "spine0")
    source, target = everyone(topology)
    for flow in range(5):
        paths = broken.paths(source, target, flow)
        assert not broken.failed[paths[paths >= 0]].any()
    assert broken.without([("leaf2", "spine1")]).failed.sum() == 6


def test_one_direction_can_fail_alone():
    topology = ring(4, 1e9, 0.0)
    broken = topology.without([topology.link("gpu0", "gpu1")])
    assert (broken.paths(0, 1) >= 0).sum() == 3
    assert (broken.paths(1, 0) >= 0).sum() == 1


@pytest.mark.parametrize(("topology", "links", "said"), [
    (switch(4, 1e9, 0.0), [("gpu2", "switch0")], "nothing leads from gpu0 to gpu2"),
    (ring(4, 1e9, 0.0), [("gpu0", "gpu1"), ("gpu2", "gpu3")], "nothing leads from"),
    (full_mesh(2, 1e9, 0.0), [0], "nothing leads from gpu0 to gpu1"),
    (full_mesh(2, 1e9, 0.0), [1], "nothing leads from gpu1 to gpu0"),
])  # fmt: skip
def test_what_cuts_ranks_off_is_refused(topology, links, said):
    with pytest.raises(InputError, match=said):
        topology.without(links)


def test_planes_that_do_not_meet_are_seen():
    """gpu0 reaches all by one plane or the other, but what has lost different planes cannot meet."""
    topology = leaf_spine(3, 3, 1, 25e9, 1e-6, nics=1, planes=2, isolated_planes=True)
    half = topology.without([("nic1.0", "leaf0.0.0")])
    with pytest.raises(InputError, match="nothing leads from gpu1 to gpu2"):
        half.without([("nic2.0", "leaf0.0.1")])


@given(st.data())
def test_cut_off_agrees_with_networkx(data):
    import networkx

    ranks = data.draw(st.integers(2, 5))
    switches = data.draw(st.integers(1, 4))
    wiring = Wiring("random")
    ends = [
        *wiring.devices(ranks, transit=data.draw(st.booleans())),
        *(wiring.vertex(f"s{i}") for i in range(switches)),
    ]
    links = data.draw(st.lists(st.tuples(st.sampled_from(ends), st.sampled_from(ends)), max_size=14))
    for a, b in links:
        if a != b:
            wiring.join(a, b, 1e9, 0.0)
    topology = wiring.topology()
    alive = data.draw(st.lists(st.booleans(), min_size=topology.links, max_size=topology.links))
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(topology.vertices)))
    graph.add_edges_from(
        (int(a), int(b)) for a, b, works in zip(topology.source, topology.target, alive, strict=True) if works
    )

    def meets(a: int, b: int) -> bool:
        blocked = [v for v in range(ranks) if v not in (a, b) and not topology.transit[v]]
        rest = graph.copy()
        rest.remove_nodes_from(blocked)
        return networkx.has_path(rest, a, b)

    whole = all(meets(a, b) for a in range(ranks) for b in range(ranks))
    failed = [link for link, works in enumerate(alive) if not works]
    if whole:
        assert topology.without(failed).cut_off() is None
    else:
        with pytest.raises(InputError, match="nothing leads"):
            topology.without(failed)


@pytest.mark.parametrize("topology", [torus((2, 3), 1e9, 0.0), fat_tree(8, 2, 1e9, 0.0), ring(5, 1e9, 0.0)])
def test_topologies_travel_to_other_processes(topology):
    again = pickle.loads(pickle.dumps(topology))
    source, target = everyone(topology)
    np.testing.assert_array_equal(again.paths(source, target, 7), topology.paths(source, target, 7))
