"""Routing: shortest by an independent count, spread by the hash, held to what is given by hand."""

import itertools

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import InputError, routing
from commlens.hardware.fabrics import fat_tree, full_mesh, leaf_spine, ring, switch, torus, with_paths
from commlens.hardware.routing import Ecmp, ShortestPath, all_shortest, flow_hash, mix
from commlens.hardware.topology import Topology
from commlens.hardware.wiring import Wiring


def check_paths(topology: Topology, source: np.ndarray, target: np.ndarray, paths: np.ndarray) -> None:
    """Each path leads from source to target in one piece, past no vertex twice, and through none that may not."""
    for start, end, path in zip(source.tolist(), target.tolist(), paths.tolist(), strict=True):
        links = [link for link in path if link >= 0]
        assert path == links + [-1] * (len(path) - len(links))
        stops = [start]
        for link in links:
            assert topology.source[link] == stops[-1]
            assert not topology.failed[link]
            stops.append(int(topology.target[link]))
        assert stops[-1] == end
        assert len(set(stops)) == len(stops)
        assert topology.transit[stops[1:-1]].all()


def everyone(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    source, target = np.indices((topology.ranks, topology.ranks)).reshape(2, -1)
    return source, target


def cost_by_networkx(topology: Topology, source: int, target: int) -> float:
    graph = topology.graph()
    graph.remove_nodes_from(
        [topology.vertices[v] for v in range(topology.ranks) if v not in (source, target) and not topology.transit[v]]
    )
    return networkx.shortest_path_length(graph, topology.vertices[source], topology.vertices[target], weight="cost")


@st.composite
def networks(draw) -> Topology:
    """Anything connected: a random tree of devices and switches, and random cables on top."""
    ranks, switches = draw(st.integers(2, 6)), draw(st.integers(1, 5))
    wiring = Wiring("random")
    inner = [wiring.vertex(f"s{i}") for i in range(switches)]
    devices = wiring.devices(ranks, transit=draw(st.booleans()))
    costs = st.sampled_from([1, 1, 1, 2, 5])
    for number, vertex in enumerate([*inner[1:], *devices]):
        wiring.join(vertex, inner[draw(st.integers(0, min(number, switches - 1)))], 1e9, 1e-6, cost=draw(costs))
    every = [*inner, *devices]
    for a, b in draw(st.lists(st.tuples(st.sampled_from(every), st.sampled_from(every)), max_size=10)):
        if a != b:
            wiring.join(a, b, 1e9, 1e-6, cost=draw(costs))
    return wiring.topology()


@given(networks(), st.integers(0, 2**62))
def test_paths_are_whole_and_shortest_on_any_network(topology, flow):
    source, target = everyone(topology)
    for router in (Ecmp(), Ecmp(seed=5), ShortestPath()):
        paths = topology.routed(router).paths(source, target, flow)
        check_paths(topology, source, target, paths)
        cost = np.append(topology.cost, 0)[paths].sum(axis=1)
        assert cost.tolist() == [cost_by_networkx(topology, a, b) for a, b in zip(source, target, strict=True)]


@given(networks())
def test_all_shortest_are_all_there_are(topology):
    graph = topology.graph()
    for a, b in itertools.permutations(range(topology.ranks), 2):
        found = all_shortest(topology, a, b)
        check_paths(topology, np.full(len(found), a), np.full(len(found), b), found)
        assert len({tuple(path) for path in found.tolist()}) == len(found)
        rest = graph.copy()
        rest.remove_nodes_from(
            [topology.vertices[v] for v in range(topology.ranks) if v not in (a, b) and not topology.transit[v]]
        )
        ways = networkx.all_shortest_paths(rest, topology.vertices[a], topology.vertices[b], weight="cost")
        expected = 0
        for way in ways:
            # Parallel cables are one edge there; of these, the cheapest count.
            cheapest = [
                (topology.cost[links] == topology.cost[links].min()).sum()
                for links in (topology.between(x, y) for x, y in itertools.pairwise(way))
            ]
            expected += int(np.prod(cheapest))
        if all(len(topology.between(x, y)) == 1 for x, y in graph.edges):
            assert len(found) == expected


@pytest.mark.parametrize("topology", [
    full_mesh(7, 1e9, 0.0), ring(9, 1e9, 0.0), ring(10, 1e9, 0.0), torus((3, 4, 2), 1e9, 0.0), switch(6, 1e9, 0.0),
    fat_tree(37, 5, 1e9, 0.0, 2.0), fat_tree(50, 4, 1e9, 0.0, rails=3), fat_tree(61, 4, 1e9, 0.0, leaves_per_pod=3),
], ids=lambda topology: topology.name)  # fmt: skip
def test_hops_are_those_of_networkx(topology):
    source, target = everyone(topology)
    paths = topology.paths(source, target, 3)
    check_paths(topology, source, target, paths)
    hops = dict(networkx.all_pairs_shortest_path_length(topology.graph()))
    names = topology.vertices
    assert (paths >= 0).sum(axis=1).tolist() == [hops[names[a]][names[b]] for a, b in zip(source, target, strict=True)]


def test_the_mixer_is_splitmix64():
    """First numbers of the generator seeded with 0, as its reference implementation prints them."""
    state = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert [hex(value) for value in mix(state)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_flows_keep_their_paths():
    """These exact paths on every machine: integers only."""
    topology = fat_tree(64, 8, 50e9, 1e-6)
    flows = np.arange(6)
    first = topology.paths(0, np.full(6, 63), flows)
    np.testing.assert_array_equal(first, topology.paths(0, np.full(6, 63), flows))
    one_by_one = [topology.paths(0, 63, flow)[0].tolist() for flow in flows]
    assert first.tolist() == one_by_one
    spines = [topology.link_name(path[1]).removeprefix("leaf0->spine") for path in one_by_one]
    assert [int(spine) for spine in spines] == [4, 0, 2, 7, 2, 7]
    assert (topology.routed(Ecmp(seed=1)).paths(0, np.full(6, 63), flows) != first).any()


def test_flows_spread_evenly_over_spines():
    """Counts of 16,000 flows on 16 spines: chi-square with 15 degrees of freedom, far in the tail at 60."""
    topology = fat_tree(64, 16, 50e9, 1e-6)
    flows = np.arange(16_000)
    for source, target in ((0, 63), (5, 20)):
        paths = topology.paths(np.full(len(flows), source), target, flows)
        used, counts = np.unique(paths[:, 1], return_counts=True)
        assert len(used) == 16
        assert (((counts - 1000) ** 2) / 1000).sum() < 60
    # Neither do pairs of ranks without a flow number of their own pile up.
    source, target = everyone(topology)
    cross = source // 16 != target // 16
    counts = np.bincount(topology.paths(source[cross], target[cross])[:, 1], minlength=topology.links)
    expected = cross.sum() / 64  # 4 leaves times 16 spines
    assert (((counts[counts > 0] - expected) ** 2) / expected).sum() < 150


def test_switches_choose_independently():
    """Two choices in a row: all combinations of upward ports, about equally often."""
    topology = fat_tree(64, 4, 50e9, 1e-6, leaves_per_pod=4)
    flows = np.arange(16_000)
    paths = topology.paths(np.zeros(len(flows), dtype=int), 63, flows)
    _, counts = np.unique(paths[:, 1] * 1000 + paths[:, 2], return_counts=True)
    assert len(counts) == 16
    assert (((counts - 1000) ** 2) / 1000).sum() < 60


def test_no_correlation_of_neighbouring_flows():
    keys = flow_hash(0, np.arange(100_000), np.zeros(100_000, dtype=np.int64))
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.01
    assert abs((bits[1:] ^ bits[:-1]).mean(axis=0) - 0.5).max() < 0.01


def test_shortest_path_ignores_the_flow_and_takes_the_lowest():
    topology = fat_tree(16, 4, 50e9, 1e-6).routed(ShortestPath())
    paths = topology.paths(0, np.full(9, 15), np.arange(9))
    assert {tuple(path) for path in paths.tolist()} == {tuple(all_shortest(topology, 0, 15)[0].tolist())}


def test_parts_of_a_large_job_are_one_job(monkeypatch):
    """Routes do not depend on how many targets are looked at together."""
    topology = leaf_spine(6, 2, 3, 25e9, 1e-6, nics=2, inner_bandwidth=1e11)
    source, target = everyone(topology)
    whole = topology.paths(source, target, source)
    monkeypatch.setattr(routing, "_TABLE", 4 * topology.links)
    np.testing.assert_array_equal(topology.paths(source, target, source), whole)


def test_a_million_pairs():
    """All pairs of 1,024 ranks at once; every leaf's uplinks carry what leaves it."""
    topology = fat_tree(1024, 32, 50e9, 1e-6, 2.0)
    source, target = np.nonzero(~np.eye(1024, dtype=bool))
    paths = topology.paths(source, target)
    assert paths.shape == (1024 * 1023, 4)
    assert topology.loads(paths).sum() == (paths >= 0).sum() == 2 * 1024 * 31 + 4 * 1024 * 992
    sample = np.random.default_rng(0).integers(len(source), size=300)
    check_paths(topology, source[sample], target[sample], paths[sample])


def test_paths_by_hand():
    topology = fat_tree(8, 2, 50e9, 1e-6)
    links = all_shortest(topology, 2, 7)[1]
    laid = with_paths(
        topology,
        {
            (0, 7): ["gpu0", "leaf0", "spine1", "leaf3", "gpu7"],
            (0, 6, 4): ["gpu0", "leaf0", "spine0", "leaf2", "spine1", "leaf3", "gpu6"],
            (2, 7): links.tolist(),
        },
    )
    for flow in range(8):
        path = laid.paths(0, 7, flow)[0]
        assert [laid.link_name(link) for link in path] == [
            "gpu0->leaf0", "leaf0->spine1", "spine1->leaf3", "leaf3->gpu7",
        ]  # fmt: skip
        np.testing.assert_array_equal(laid.paths(2, 7, flow)[0], links)
        np.testing.assert_array_equal(laid.paths(7, 0, flow), topology.paths(7, 0, flow))
    assert [(path >= 0).sum() for path in laid.paths(0, [6, 6], [4, 5])] == [6, 4]
    source, target = everyone(laid)
    check_paths(laid, source, target, laid.paths(source, target, 4))


def test_paths_by_hand_give_way_to_failures():
    topology = with_paths(fat_tree(8, 2, 50e9, 1e-6), {(0, 7): ["gpu0", "leaf0", "spine1", "leaf3", "gpu7"]})
    broken = topology.without([("leaf0", "spine1")])
    assert [broken.link_name(link) for link in broken.paths(0, 7)[0]][1] == "leaf0->spine0"


@pytest.mark.parametrize(("given_", "said"), [
    ({(0, 3): ["gpu0", "leaf9", "gpu3"]}, "no vertex 'leaf9'"),
    ({(0, 3): ["gpu0", "gpu3"]}, "no link leads from gpu0 to gpu3"),
    ({(0, 3): ["gpu0", "leaf0", "gpu1"]}, "it takes gpu0 leaf0 gpu1"),
    ({(0, 3): ["gpu1", "leaf0", "gpu0"]}, r"link \d+ \(gpu1->leaf0\) does not start at gpu0"),
    ({(0, 3): [0, 5]}, "does not start at"),
    ({(0, 3): [99]}, r"link 99 does not exist \(legal: 0 to \d+\)"),
    ({(0, 3): []}, "it takes gpu0"),
    ({(0, 0): ["gpu0", "leaf0", "gpu0"]}, "no vertex twice"),
    ({(9, 0): ["gpu0", "leaf0", "gpu1"]}, "does not start at"),
])  # fmt: skip
def test_paths_by_hand_that_do_not_lead_there(given_, said):
    with pytest.raises(InputError, match=said):
        with_paths(fat_tree(4, 2, 50e9, 1e-6), given_)


@given(st.data())
def test_dimension_order_on_any_torus(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    topology = torus(shape, 1e9, 1e-6)
    source, target = everyone(topology)
    paths = topology.paths(source, target, data.draw(st.integers(0, 9)))
    check_paths(topology, source, target, paths)
    apart = np.abs(np.array(np.unravel_index(source, shape)) - np.array(np.unravel_index(target, shape)))
    around = np.array(shape)[:, None] - apart
    assert (paths >= 0).sum(axis=1).tolist() == np.minimum(apart, around).sum(axis=0).tolist()
    # Dimensions come in order: the one a link belongs to never goes back.
    place = np.array(np.unravel_index(np.arange(topology.ranks), shape))
    moved = (place[:, topology.source] != place[:, topology.target]).argmax(axis=0)
    for path in paths:
        assert (np.diff(moved[path[path >= 0]]) >= 0).all()


@pytest.mark.parametrize("size", [4, 6, 10])
def test_both_ways_round_an_even_ring_carry_the_same(size):
    topology = ring(size, 1e9, 1e-6)
    source, target = everyone(topology)
    first, second = (topology.loads(topology.paths(source, target, flow)) for flow in (0, 1))
    assert np.ptp(first) <= 1  # half of an odd number of sources cannot be
    np.testing.assert_array_equal(first + second, (first + second)[0])
    up = [topology.link(f"gpu{rank}", f"gpu{(rank + 1) % size}") for rank in range(size)]
    assert first[up].sum() == first.sum() / 2 == size * sum(min(d, size - d) for d in range(size)) / 2


def test_torus_goes_around_a_failure():
    topology = torus((4, 4), 1e9, 1e-6)
    broken = topology.without([("gpu0", "gpu1")])
    assert (broken.paths(0, 1) >= 0).sum() == 3
    source, target = everyone(broken)
    check_paths(broken, source, target, broken.paths(source, target))


def test_nowhere_to_go():
    wiring = Wiring("apart")
    wiring.devices(2)
    with pytest.raises(InputError, match="nothing leads from gpu0"):
        wiring.topology().paths(0, 1)
    with pytest.raises(InputError, match="nothing leads from gpu0 to gpu1"):
        all_shortest(wiring.topology(), 0, 1)
