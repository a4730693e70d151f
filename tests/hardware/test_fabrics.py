"""Fabrics: sizes by formula, bisection by an independent maximum flow, paths as each is built for."""

import itertools
from collections.abc import Callable

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import InputError
from commlens.hardware.fabrics import (
    FABRICS,
    build_topology,
    compose,
    dragonfly,
    fat_tree,
    full_mesh,
    leaf_spine,
    pcie_tree,
    ring,
    switch,
    torus,
    wan_star,
)
from commlens.hardware.routing import all_shortest
from commlens.hardware.topology import Topology

RATE, DELAY = 50e9, 1e-6
counts = st.integers(1, 6)


def everyone(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    source, target = np.indices((topology.ranks, topology.ranks)).reshape(2, -1)
    return source, target


def check_paths(topology: Topology, flow: int = 0) -> np.ndarray:
    """All pairs: in one piece, no vertex twice, through no device or port that passes nothing on."""
    source, target = everyone(topology)
    paths = topology.paths(source, target, flow)
    for start, end, path in zip(source.tolist(), target.tolist(), paths, strict=True):
        links = path[path >= 0]
        stops = [start, *topology.target[links].tolist()]
        assert topology.source[links].tolist() == stops[:-1]
        assert stops[-1] == end
        assert len(set(stops)) == len(stops)
        assert topology.transit[stops[1:-1]].all()
        assert not ((topology.port[links[:-1]] < 0) & (topology.port[links[1:]] > 0)).any()
    return paths


def bisection(topology: Topology, left: list[int]) -> float:
    """Most that some ranks can send to all others, by networkx."""
    graph = networkx.DiGraph()
    for a, b, edge in topology.graph().edges(data=True):
        graph.add_edge(a, b, capacity=edge["bandwidth"] / 1e9)
    for rank in range(topology.ranks):
        name = f"gpu{rank}"
        graph.add_edge(*(("all left", name) if rank in left else (name, "all right")))  # no capacity: unlimited
    return float(networkx.maximum_flow_value(graph, "all left", "all right")) * 1e9


def stops(topology: Topology, path: np.ndarray) -> list[str]:
    links = path[path >= 0]
    return [topology.vertices[v] for v in [topology.source[links[0]], *topology.target[links]]]


@given(st.data())
def test_any_fabric_of_any_size_joins_all(data):
    duplex = data.draw(st.sampled_from(["full", "half"]))
    ratio = data.draw(st.sampled_from([1.0, 1.5, 4.0]))
    ranks, a, b, c, d = (data.draw(counts) for _ in range(5))
    maybe = st.one_of(st.none(), counts)
    topology = data.draw(st.sampled_from([
        lambda: full_mesh(ranks, RATE, DELAY),
        lambda: ring(ranks, RATE, DELAY),
        lambda: torus((a, b), RATE, DELAY),
        lambda: switch(ranks, RATE, DELAY),
        lambda: pcie_tree(ranks, RATE, DELAY, a, b, c, duplex),
        lambda: fat_tree(ranks * a, b, RATE, DELAY, ratio, data.draw(maybe), data.draw(maybe)),
        lambda: fat_tree(ranks * a, b, RATE, DELAY, ratio, data.draw(maybe), data.draw(maybe), c, ratio, d),
        lambda: dragonfly(min(a, b * d + 1), b, c, RATE, DELAY, d),
        lambda: dragonfly(min(a, b * d + 1), b, c, RATE, DELAY, d, routing="valiant"),
        lambda: leaf_spine(a, b, c, RATE, DELAY, d, data.draw(counts), data.draw(maybe), c + data.draw(counts),
                           ratio, data.draw(st.booleans()), False, inner_bandwidth=RATE),
        lambda: leaf_spine(a, b, c, RATE, DELAY, d, 2, isolated_planes=True, rails=False),
        lambda: wan_star(ranks, 1e6, 1e7, 0.01),
    ]))()  # fmt: skip
    assert topology.cut_off() is None
    assert topology.vertices[: topology.ranks] == tuple(f"gpu{rank}" for rank in range(topology.ranks))
    assert len(set(topology.vertices)) == len(topology.vertices)
    assert len(set(topology.resource_names)) == len(topology.capacity)
    check_paths(topology, data.draw(st.integers(0, 5)))


@given(counts, st.lists(st.integers(3, 5), min_size=1, max_size=3))
def test_links_by_formula(ranks, shape):
    assert full_mesh(ranks, RATE, DELAY).links == ranks * (ranks - 1)
    assert switch(ranks, RATE, DELAY).links == 2 * ranks
    assert torus(shape, RATE, DELAY).links == 2 * len(shape) * np.prod(shape)
    assert wan_star(ranks, 1e6, 1e7, 0.01).links == 2 * ranks


@pytest.mark.parametrize(("size", "links"), [(1, 0), (2, 2), (3, 6), (8, 16)])
def test_links_of_rings(size, links):
    topology = ring(size, RATE, DELAY)
    assert topology.links == links
    assert all(topology.link(f"gpu{rank}", f"gpu{(rank + 1) % size}") >= 0 for rank in range(size) if size > 1)


@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("spines", [None, 1, 5])
@pytest.mark.parametrize("options", [{}, {"rails": 4}], ids=["plain", "rails"])
def test_bisection_of_two_levels(ratio, spines, options):
    topology = fat_tree(32, 4, RATE, DELAY, ratio, spines, **options)
    halves = [rank for rank in range(32) if (rank % 4 < 2 if options else rank < 16)]  # whole leaves
    assert bisection(topology, halves) == pytest.approx(32 / 2 * RATE / ratio)


@pytest.mark.parametrize(("ratio", "core"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (2.0, 3.0)])
def test_bisection_of_three_levels(ratio, core):
    topology = fat_tree(48, 3, RATE, DELAY, ratio, leaves_per_pod=4, core_oversubscription=core)
    assert bisection(topology, list(range(24))) == pytest.approx(48 / 2 * RATE / (ratio * core))
    assert [stop.rstrip("0123456789") for stop in stops(topology, topology.paths(0, 47)[0])] == [
        "gpu", "leaf", "spine", "core", "spine", "leaf", "gpu",
    ]  # fmt: skip


@given(st.integers(1, 40), counts, st.sampled_from([1.0, 2.0]))
def test_every_leaf_has_what_its_devices_need(ranks, per_leaf, ratio):
    topology = fat_tree(ranks, per_leaf, RATE, DELAY, ratio)
    leaves = [v for v, name in enumerate(topology.vertices) if name.startswith("leaf")]
    assert len(leaves) == -(-ranks // per_leaf)
    for leaf in leaves:
        out = topology.source == leaf
        up = topology.bandwidth[out & (topology.target >= topology.ranks)].sum()
        down = topology.bandwidth[out & (topology.target < topology.ranks)].sum()
        if len(leaves) > 1:
            assert up == pytest.approx(per_leaf * RATE / ratio)
            assert down <= per_leaf * RATE


def test_rails_keep_the_same_device_of_all_nodes_on_one_leaf():
    topology = fat_tree(64, 4, RATE, DELAY, rails=8)  # eight nodes of eight
    for a, b in itertools.product(range(8), range(64)):
        hops = (topology.paths(a, b) >= 0).sum()
        assert hops == (0 if a == b else 2 if a % 8 == b % 8 and a // 8 // 4 == b // 8 // 4 else 4)


@pytest.mark.parametrize("shape", [(9, 4, 2, 2), (5, 2, 1, 2), (4, 3, 2, 1), (3, 4, 1, 3), (2, 1, 3, 1), (1, 4, 2, 1)])
def test_dragonfly(shape):
    groups, routers, devices, global_links = shape
    topology = dragonfly(groups, routers, devices, RATE, DELAY, global_links, global_bandwidth=2 * RATE)
    group = np.array([known["group"] for known in topology.attributes])
    across = group[topology.source] != group[topology.target]
    copies = routers * global_links // (groups - 1) if groups > 1 else 0
    assert topology.ranks == groups * routers * devices
    assert across.sum() == groups * (groups - 1) * copies
    assert topology.links == groups * routers * (2 * devices + routers - 1) + across.sum()
    # No router has more long links than ports, and every two groups have equally many.
    assert np.bincount(topology.source[across], minlength=1).max() <= global_links
    pairs = np.bincount(group[topology.source[across]] * groups + group[topology.target[across]], minlength=groups**2)
    assert sorted(pairs) == sorted([0] * groups + [copies] * (groups * (groups - 1)))
    paths = check_paths(topology)
    assert (paths >= 0).sum(axis=1).max(initial=0) <= 5
    assert np.append(across, False)[paths].sum(axis=1).max(initial=0) <= 1


def test_valiant_goes_by_a_third_group():
    options = {"global_links": 2, "routing": "valiant"}
    topology = dragonfly(9, 4, 2, RATE, DELAY, **options)
    group = np.array([known["group"] for known in topology.attributes])
    source, target = everyone(topology)
    used = []
    for flow in range(3):
        paths = check_paths(topology, flow)
        visited = [set(group[topology.target[path[path >= 0]]]) for path in paths]
        for a, b, groups in zip(group[source], group[target], visited, strict=True):
            assert len(groups | {a, b}) == (3 if a != b else 1)
        assert (paths >= 0).sum(axis=1).max() <= 7
        used.append(paths)
    assert used[0].shape != used[1].shape or (used[0] != used[1]).any()
    # From one group to another, every third group is taken about equally often.
    paths = topology.paths(np.zeros(7000, dtype=int), 70, np.arange(7000))
    entered = group[topology.target[paths]]
    _, often = np.unique(entered[np.arange(7000), (entered != 0).argmax(axis=1)], return_counts=True)
    assert len(often) == 7
    assert (((often - 1000) ** 2) / 1000).sum() < 40
    assert check_paths(dragonfly(2, 2, 2, RATE, DELAY, **options)).shape[1] <= 5


@pytest.mark.parametrize(("ratio", "spines", "uplinks"), [(1.0, 8, None), (2.0, 4, None), (1.0, 3, 8)])
def test_two_port_adapters_on_two_planes(ratio, spines, uplinks):
    """The fabric of C4's tests: 16 nodes in two groups, eight uplinks for eight ports below each leaf."""
    topology = leaf_spine(16, 8, spines, RATE / 2, DELAY, uplinks=uplinks, oversubscription=ratio, inner_bandwidth=4e11)
    leaves = [name for name in topology.vertices if name.startswith("leaf")]
    assert topology.ranks == 128
    assert len(leaves) == 2 * 8 * 2  # groups, rails, planes
    each = uplinks or spines
    assert topology.links == 2 * (128 * (1 + 2 + 1) + len(leaves) * each)
    for name in leaves:
        out = topology.source == topology.index(name)
        up = np.array([topology.vertices[v].startswith("spine") for v in topology.target]) & out
        assert up.sum() == each
        assert topology.bandwidth[up].sum() == pytest.approx(8 * RATE / 2 / ratio)
    # Another rank of the node: inside. The same rail: by either leaf. Else: either port, any uplink, either port.
    assert stops(topology, topology.paths(0, 5)[0]) == ["gpu0", "switch0", "gpu5"]
    assert len(all_shortest(topology, 0, 8)) == 2
    assert {len(stops(topology, path)) for path in all_shortest(topology, 0, 8)} == {5}
    down = {
        spine: len(topology.between(spine, "leaf1.0.0")) for spine in topology.vertices if spine.startswith("spine")
    }
    up_by = {spine: len(topology.between("leaf0.0.0", spine)) for spine in down}
    if uplinks is None:
        assert len(all_shortest(topology, 0, 64)) == 2 * spines * 2
    assert sum(down.values()) == sum(up_by.values()) == each


def test_isolated_planes_keep_the_port():
    topology = leaf_spine(4, 2, 3, RATE, DELAY, nics=2, isolated_planes=True)
    found = all_shortest(topology, 0, 7)
    assert len(found) == 2 * 3
    for path in found:
        named = stops(topology, path)
        assert named[2][-1] == named[4][-1]  # leaf0.0.plane, leaf1.1.plane


def test_adapters_do_not_pass_on_from_port_to_port():
    """With a port gone at each end, on different planes, the spine joins them and no neighbour's adapter."""
    topology = leaf_spine(4, 4, 2, RATE, DELAY, nics=1)
    broken = topology.without([("nic0.0", "leaf0.0.0"), ("nic1.0", "leaf0.0.1")])
    for flow in range(20):
        assert stops(broken, broken.paths(0, 1, flow)[0])[3].startswith("spine")
    assert len(all_shortest(broken, 0, 1)) == 2
    check_paths(broken)


def test_devices_that_share_adapters():
    topology = leaf_spine(2, 1, 1, RATE, DELAY, nics=2, devices_per_node=5)
    used = [stops(topology, topology.paths(rank, 9)[0])[1] for rank in range(5)]
    assert used == ["nic0.0", "nic0.0", "nic0.0", "nic0.1", "nic0.1"]
    assert stops(topology, topology.paths(0, 2)[0]) == ["gpu0", "nic0.0", "gpu2"]


@pytest.mark.parametrize("duplex", ["full", "half"])
def test_pcie_tree(duplex):
    topology = pcie_tree(
        8, 32e9, DELAY, sockets=2, bridges=1, switches=2, duplex=duplex, uplink=16e9, socket_bandwidth=20e9,
        socket_latency=3e-6,
    )  # fmt: skip
    assert topology.links == 2 * (8 + 4 + 2 + 1)
    shared = 8 + 4 + 2
    assert len(topology.capacity) == topology.links - (shared if duplex == "half" else 0)
    ways = {b: stops(topology, topology.paths(0, b)[0]) for b in (1, 2, 4)}
    assert ways[1] == ["gpu0", "pcie0", "gpu1"]
    assert ways[2] == ["gpu0", "pcie0", "bridge0", "pcie1", "gpu2"]
    assert ways[4] == ["gpu0", "pcie0", "bridge0", "socket0", "socket1", "bridge1", "pcie2", "gpu4"]
    np.testing.assert_allclose(topology.path_latency(topology.paths(0, [1, 2, 4])), [2e-6, 4e-6, 9e-6])
    there, back = (topology.loads(topology.paths([a], [b]), 1.0) for a, b in ((0, 2), (2, 0)))
    assert ((there > 0) & (back > 0)).any() == (duplex == "half")


def test_sites_of_a_wide_area():
    topology = wan_star(3, [1e6, 2e6, 3e6], 1e7, [0.01, 0.02, 0.03])
    path = topology.paths(0, 2)
    assert topology.bandwidth[path].tolist() == [[1e6, 1e7]]
    assert topology.path_latency(path).tolist() == [pytest.approx(0.04)]
    assert topology.bandwidth[topology.paths(2, 0)].tolist() == [[3e6, 1e7]]


# ---- islands


def islands() -> list[Topology]:
    return [switch(8, 450e9, DELAY), torus((2, 2), 100e9, DELAY), pcie_tree(3, 32e9, DELAY), full_mesh(1, 1e9, DELAY)]


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("outer", [
    fat_tree(16, 4, RATE, DELAY, 2.0), fat_tree(16, 2, RATE, DELAY, rails=3), torus((4, 4), RATE, DELAY),
    dragonfly(4, 2, 2, RATE, DELAY, 2), wan_star(4, 1e6, 1e7, 0.01), switch(4, RATE, DELAY),
], ids=lambda topology: topology.name)  # fmt: skip
def test_mixed_islands_keep_their_own_traffic(outer, forward):
    topology = compose(islands(), outer, forward=forward, devices=["a", "b", "c", "d"])
    assert topology.ranks == 16
    assert topology.cut_off() is None
    island = np.array([known.get("island", -1) for known in topology.attributes])
    assert [topology.attributes[rank]["device"] for rank in range(16)] == [*"aaaaaaaabbbbcccd"]
    source, target = everyone(topology)
    paths = check_paths(topology, 1)
    nic = np.array([kind == "nic" for kind in topology.kinds])
    by_nic = np.append(nic[topology.source] | nic[topology.target], False)[paths].any(axis=1)
    np.testing.assert_array_equal(by_nic, island[source] != island[target])
    if not forward:  # out by one's own adapter, in by one's own
        for path in paths[by_nic]:
            assert topology.vertices[topology.target[path[0]]].startswith("nic")
            assert topology.vertices[topology.source[path[path >= 0][-1]]].startswith("nic")


def test_an_adapter_for_every_device_or_island_or_as_told():
    parts = islands()[:2]
    assert compose(parts, switch(12, RATE, DELAY)).kinds.count("nic") == 12
    assert compose(parts, switch(2, RATE, DELAY)).kinds.count("nic") == 2
    told = compose(parts, switch(6, RATE, DELAY), nics=[4, 2])
    assert [stops(told, told.paths(rank, 11)[0])[1] for rank in range(0, 8, 2)] == ["nic0", "nic1", "nic2", "nic3"]
    more = compose([full_mesh(1, 1e9, 0.0)] * 2, switch(4, RATE, DELAY), nics=2)
    assert len(all_shortest(more, 0, 1)) == 4
    # By default a device's link to its adapter is as fast as what the adapter has outside.
    assert told.bandwidth[told.between("gpu0", "nic0")].tolist() == [RATE]
    slow = compose(parts, switch(2, RATE, DELAY), bandwidth=9e9)
    assert slow.bandwidth[slow.between("gpu11", "nic1")].tolist() == [9e9]


def test_forwarding_stays_on_the_rail():
    """Rank 0 to rank 9 (rail 0 to rail 1): by the neighbour's adapter instead of over the spine."""
    parts, outer = [switch(8, 450e9, DELAY)] * 4, fat_tree(32, 4, RATE, DELAY, rails=8)
    plain, forwarding = compose(parts, outer), compose(parts, outer, forward=True)
    assert any(stop.startswith("spine") for stop in stops(plain, plain.paths(0, 9)[0]))
    for flow in range(8):
        way = stops(forwarding, forwarding.paths(0, 9, flow)[0])
        assert not any(stop.startswith("spine") for stop in way)
        assert way in (
            ["gpu0", "island0.switch0", "gpu1", "nic1", "leaf1", "nic9", "gpu9"],
            ["gpu0", "nic0", "leaf0", "nic8", "gpu8", "island1.switch0", "gpu9"],
        )


def test_islands_lose_nothing_by_being_joined():
    parts = islands()
    topology = compose(parts, switch(4, RATE, DELAY))
    first = 0
    for part in parts:
        source, target = everyone(part)
        joined = topology.paths(source + first, target + first)
        np.testing.assert_allclose(
            topology.path_latency(joined).reshape(-1), part.path_latency(part.paths(source, target)).reshape(-1)
        )
        first += part.ranks
    again = compose([compose(parts, switch(4, RATE, DELAY))] * 2, wan_star(2, 1e6, 1e7, 0.05), nics=1)
    assert again.ranks == 32
    check_paths(again)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: compose([], switch(1, 1.0, 0.0)), r"islands: \[\] \(legal: one island or more\)"),
    (lambda: compose(islands(), switch(5, RATE, DELAY)), r"5 ranks for the islands' adapters \(legal: 16 or 4\)"),
    (lambda: compose(islands(), switch(5, RATE, DELAY), nics=[1, 2]), "nics: 2 numbers"),
    (lambda: compose(islands(), switch(4, RATE, DELAY), devices=["a"]), "devices: 1 names"),
    (lambda: dragonfly(6, 2, 2, RATE, DELAY, 2), r"groups: 6 \(legal: 1 to 5\)"),
    (lambda: dragonfly(3, 2, 2, RATE, DELAY, ranks=13), r"ranks: 13 \(legal: 1 to 12\)"),
    (lambda: leaf_spine(4, 2, 8, RATE, DELAY, uplinks=6), r"uplinks: 6 \(legal: 8 or more"),
    (lambda: fat_tree(8, 2, RATE, DELAY, 0.5), r"fat_tree: oversubscription: 0.5 \(legal: 1 to 64\)"),
    (lambda: fat_tree(8, 2, RATE, DELAY, cores_per_spine=2), "only with leaves_per_pod"),
    (lambda: fat_tree(1 << 20, 1, RATE, DELAY, spines=4096), "links in all"),
    (lambda: torus((), RATE, DELAY), r"shape: \[\]"),
    (lambda: torus((2048, 2048), RATE, DELAY), "devices: 4194304"),
    (lambda: ring(0, RATE, DELAY), r"ring: ranks: 0 \(legal: 1 to"),
    (lambda: switch(2, 0.0, DELAY), r"switch: bandwidth: 0 \(legal: above 0 B/s\)"),
    (lambda: switch(2, RATE, float("nan")), "switch: latency: nan"),
    (lambda: wan_star(3, [1e6], 1e7, 0.0), "wan_star: up: 1 numbers"),
])  # fmt: skip
def test_what_cannot_be_built(call, said):
    with pytest.raises(InputError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- as files describe them

PLACE = "s.yaml: cluster.network"
LINKS = {"bandwidth": "400 Gbit/s", "latency": "2 us"}
NODE = {"kind": "switch", "ranks": 8, "bandwidth": "450 GB/s", "latency": "0.5 us", "count": 2, "device": "h100-sxm"}
EXAMPLES = {
    "full_mesh": {"ranks": 4, **LINKS},
    "ring": {"ranks": 4, **LINKS},
    "switch": {"ranks": 4, **LINKS},
    "torus": {"shape": [2, 3], **LINKS},
    "pcie_tree": {"ranks": 4, **LINKS, "duplex": "half", "sockets": 1},
    "fat_tree": {"ranks": 16, "per_leaf": 4, **LINKS, "oversubscription": 2, "rails": 2},
    "dragonfly": {"groups": 3, "routers": 2, "devices": 2, **LINKS, "routing": "valiant"},
    "leaf_spine": {"nodes": 4, "nodes_per_leaf": 2, "spines": 2, **LINKS, "rails": False, "inner_bandwidth": 1e11},
    "wan_star": {"ranks": 2, "up": ["1 MB/s", "2 MB/s"], "down": "1 MB/s", "latency": ["10 ms", 0.02]},
    "mixed": {
        "islands": [NODE, {"kind": "ring", "ranks": 5, **LINKS}], "outer": {"kind": "fat_tree", "per_leaf": 8, **LINKS},
        "nics": 4, "nic_bandwidth": "50 GB/s",
    },
    "topo_matrix": {"file": "tests/data/topo_matrix_cube_mesh.txt", "sm": 70},
    "nccl_xml": {"file": "tests/data/nccl_topology.xml", "latency": "1 us"},
}  # fmt: skip


@pytest.mark.parametrize("kind", FABRICS)
def test_every_kind_can_be_described(kind, pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    check_paths(build_topology(kind, EXAMPLES[kind], PLACE))


def test_units_arrive():
    topology = build_topology("fat_tree", EXAMPLES["fat_tree"], PLACE)
    direct = fat_tree(16, 4, 50e9, 2e-6, 2.0, rails=2)
    np.testing.assert_array_equal(topology.bandwidth, direct.bandwidth)
    np.testing.assert_array_equal(topology.latency, direct.latency)
    assert topology.vertices == direct.vertices


def test_the_outer_network_takes_its_size_from_the_islands():
    for options, ranks in (({}, 21), ({"nics": 4}, 12), ({"nics": [1, 1, 3]}, 5)):
        given_ = {**EXAMPLES["mixed"], "nics": None, **options}
        topology = build_topology("mixed", given_, PLACE)
        assert topology.ranks == 21
        assert topology.kinds.count("nic") == ranks
    assert topology.attributes[0]["device"] == "h100-sxm"


def wrong(kind, **changes):
    given_ = {**EXAMPLES.get(kind, {}), **changes}
    return kind, {key: value for key, value in given_.items() if value != "left out"}


@pytest.mark.parametrize(("case", "said"), [
    (wrong("fat_tree", oversubscription=0.5), r"s\.yaml: cluster\.network\.oversubscription: '0.5' \(legal: 1 to 64\)"),
    (wrong("fat_tree", per_leaf="left out"), r"cluster\.network\.per_leaf: Field required"),
    (wrong("fat_tree", per_leaf=2.5), r"per_leaf: '2.5': .* \(legal: a whole number from 1 to \d+\)"),
    (wrong("fat_tree", spine=3), r"network\.spine: unknown key \(legal: .*\); did you mean spines\?"),
    (wrong("fat_tree", bandwidth="400 Gbit"), r"network\.bandwidth: '400 Gbit' is not a quantity"),
    (wrong("fat_tree", latency="2 h"), r"network\.latency: '2 h' is not a quantity"),
    (wrong("fat_tree", latency=11.0), r"network\.latency: '11.0' \(legal: 0 s to 10 s\)"),
    (wrong("fat_tre"), r"network\.kind: 'fat_tre' \(legal: .*\); did you mean fat_tree\?"),
    (wrong("pcie_tree", duplex="both"), r"network\.duplex: 'both': .*\(legal: full, half or null\)"),
    (wrong("dragonfly", groups=9), r"s\.yaml: cluster\.network\.groups: 9 \(legal: 1 to 3\)"),
    (wrong("torus", shape=[2, 0]), r"network\.shape\.1: '0'"),
    (wrong("torus", shape=[]), r"network\.shape: "),
    (wrong("wan_star", up=["1 MB/s", "2 MX/s"]), r"network\.up\.1: '2 MX/s' is not a quantity"),
    (wrong("wan_star", up=["1 MB/s"]), r"network\.up: 1 numbers"),
    (wrong("mixed", islands=[{**NODE, "ranks": -1}]), r"network\.islands\.0\.ranks: '-1'"),
    (wrong("mixed", islands=[NODE, {**NODE, "count": 0}]), r"network\.islands\.1\.count: '0'"),
    (wrong("mixed", islands=[{"ranks": 4}]), r"network\.islands\.0\.kind: Field required"),
    (wrong("mixed", outer={"per_leaf": 4}), r"network\.outer\.kind: missing"),
    (wrong("mixed", outer={"kind": ["x"]}), r"network\.outer\.kind: \['x'\]"),
    (wrong("mixed", outer={"kind": "switch", "ranks": 3, **LINKS}), r"network\.outer: 3 ranks"),
    (wrong("topo_matrix", file="nowhere.txt"), r"nowhere\.txt: cannot be read"),
    (wrong("topo_matrix", sm=10), r"network\.sm: '10'"),
])  # fmt: skip
def test_errors_name_the_key(case, said):
    with pytest.raises(InputError, match=said) as caught:
        build_topology(*case, PLACE)
    assert "\n" not in str(caught.value)


def refusal(call: Callable[[], Topology]) -> str:
    """What a call says against its input; nothing when it does what it is asked."""
    try:
        call()
    except InputError as problem:
        return str(problem)
    return ""


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 100),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(EXAMPLES.keys() - {"topo_matrix", "nccl_xml"})), st.data())
def test_whatever_stands_there_is_built_or_refused_in_a_line(kind, data):
    options = dict(EXAMPLES[kind])
    options[data.draw(st.sampled_from([*options, "other"]))] = data.draw(values)
    said = refusal(lambda: build_topology(kind, options, PLACE))
    assert "\n" not in said
    assert said.startswith(PLACE) or not said
