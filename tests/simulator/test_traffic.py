"""Concurrent collectives: planned against hashed paths, failures, and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens import InputError
from commlens.hardware.topology import Topology
from commlens.hardware.wiring import Wiring
from commlens.simulator.placement import divided_bandwidth, ecmp_paths, planned_paths, rehashed_paths
from commlens.simulator.traffic import RingJob, link_loads, measure, ring_connections

PORT = 25e9


def leaf_spine(ranks: int, per_leaf: int, spines: int, uplink: float = PORT) -> Topology:
    """Ranks on leaves, every leaf on every spine."""
    wiring = Wiring("leaf-spine")
    devices = wiring.devices(ranks)
    leaves = [wiring.vertex(f"leaf{i}") for i in range(-(-ranks // per_leaf))]
    for device in devices:
        wiring.join(device, leaves[device // per_leaf], PORT, 1e-6)
    tops = [wiring.vertex(f"spine{i}") for i in range(spines)]
    for leaf in leaves:
        for top in tops:
            wiring.join(leaf, top, uplink, 1e-6)
    return wiring.topology()


def two_ports(nodes: int, spines: int) -> Topology:
    """One adapter a node with a left and a right port, half the nodes in each of two leaf groups."""
    wiring = Wiring("two ports")
    devices = wiring.devices(nodes)
    leaves = [[wiring.vertex(f"leaf{g}{side}") for side in "LR"] for g in range(2)]
    for device in devices:
        adapter = wiring.vertex(f"nic{device}", "nic")
        wiring.join(device, adapter, 10 * PORT, 0.0)
        for leaf in leaves[device * 2 // nodes]:
            wiring.join(adapter, leaf, PORT, 1e-6)
    for top in [wiring.vertex(f"spine{i}") for i in range(spines)]:
        for leaf in [*leaves[0], *leaves[1]]:
            wiring.join(leaf, top, PORT, 1e-6)
    return wiring.topology()


def across(pairs: int) -> list[RingJob]:
    """Jobs of two ranks, one in each half."""
    return [RingJob(f"job{i}", [[i, i + pairs]]) for i in range(pairs)]


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50), st.randoms(use_true_random=False))
def test_planned_is_never_worse_than_hashed(pairs, spines, qps, seed, random) -> None:  # type: ignore[no-untyped-def]
    topology = leaf_spine(2 * pairs, max(1, pairs // 2), spines)
    ranks = list(range(2 * pairs))
    random.shuffle(ranks)
    cut = random.randint(2, 2 * pairs)
    jobs = [RingJob("a", [ranks[:cut]])] + ([RingJob("b", [ranks[cut:]])] if 2 * pairs - cut >= 2 else [])
    flows = ring_connections(jobs, qps)
    hashed = ecmp_paths(topology, flows, seed)
    planned, allocation = planned_paths(topology, flows, PORT, start=hashed, seed=seed, time_limit=0.5)
    before, after = (link_loads(topology, flows, paths, PORT) for paths in (hashed, planned))
    assert after.max() <= before.max() * (1 + 1e-9)
    assert allocation.utilisation == pytest.approx(after.max())
    # The lowest max-min rate is that of the busiest link, so the slowest job is no slower than before.
    slow, fast = (measure(topology, flows, paths, PORT).bus_bandwidth.min() for paths in (hashed, planned))
    assert slow == pytest.approx(PORT / max(1.0, before.max()))
    assert fast == pytest.approx(PORT / max(1.0, after.max()))


@pytest.mark.parametrize("qps", [1, 2, 4])
def test_without_oversubscription_planned_flows_get_everything(qps: int) -> None:
    topology = leaf_spine(16, 8, 8)
    flows = ring_connections(across(8), qps)
    paths, allocation = planned_paths(topology, flows, PORT)
    assert allocation.status == "optimal"
    report = measure(topology, flows, paths, PORT)
    np.testing.assert_allclose(report.bus_bandwidth, PORT)
    assert report.load.max() == pytest.approx(1.0)
    worst = [measure(topology, flows, ecmp_paths(topology, flows, seed), PORT).bus_bandwidth.min() for seed in range(9)]
    assert np.median(worst) <= PORT * 0.6


def test_hashed_flows_collide_as_balls_in_bins_do() -> None:
    """Mean of the fullest of 8 uplinks with 8 flows, against throwing balls."""
    topology = leaf_spine(16, 8, 8)
    flows = ring_connections(across(8), 1)
    fullest = []
    for seed in range(300):
        paths = ecmp_paths(topology, flows, seed)
        up = [number for number, (s, t) in enumerate(zip(topology.source, topology.target, strict=True))
              if topology.vertices[s] == "leaf0" and topology.vertices[t].startswith("spine")]  # fmt: skip
        fullest.append(max((paths == number).sum() for number in up))
    balls = np.random.default_rng(0).integers(0, 8, (20_000, 8))
    expected = np.mean([np.bincount(row, minlength=8).max() for row in balls])
    assert np.mean(fullest) == pytest.approx(expected, abs=0.15)


def test_oversubscription_divides_evenly() -> None:
    topology = leaf_spine(16, 8, 4)
    flows = ring_connections(across(8), 2)
    paths, allocation = planned_paths(topology, flows, PORT)
    assert allocation.utilisation == pytest.approx(2.0)
    np.testing.assert_allclose(measure(topology, flows, paths, PORT).bus_bandwidth, PORT / 2)
    assert divided_bandwidth(topology, flows, PORT) == pytest.approx(PORT / 2)


def test_a_failed_uplink_halves_or_costs_an_eighth() -> None:
    topology = leaf_spine(16, 8, 8)
    flows = ring_connections(across(8), 1)
    paths, _ = planned_paths(topology, flows, PORT)
    failed = [topology.link("leaf0", "spine3"), topology.link("spine3", "leaf0")]
    hit = np.isin(paths, failed).any(axis=1)
    assert hit.sum() == 2
    static = rehashed_paths(topology, flows, paths, failed, seed=1)
    assert not np.isin(static, failed).any()
    np.testing.assert_array_equal(static[~hit, : paths.shape[1]], paths[~hit])
    report = measure(topology, flows, static, PORT)
    assert report.bus_bandwidth.min() <= PORT / 2 * (1 + 1e-9)
    planned, allocation = planned_paths(topology, flows, PORT, start=paths, failed=failed)
    assert allocation.utilisation == pytest.approx(2.0)  # whole flows: one link has to take two
    assert (planned != paths).any(axis=1).sum() <= 4  # and hardly any other moves
    assert divided_bandwidth(topology, flows, PORT, failed=failed) == pytest.approx(PORT * 7 / 8)


def test_two_ports_are_hashed_independently_at_both_ends() -> None:
    topology = two_ports(4, 2)
    flows = ring_connections([RingJob("job", [[0, 2]])], 64)
    paths = ecmp_paths(topology, flows)
    leaves = (
        [topology.vertices[v] for v in topology.target[paths[:, 1]]],
        [topology.vertices[v] for v in topology.source[paths[:, 4]]],
    )
    sides = {(a[-1], b[-1]) for a, b in zip(*leaves, strict=True)}
    assert sides == {("L", "L"), ("L", "R"), ("R", "L"), ("R", "R")}


def test_planning_uses_both_ports_both_ways() -> None:
    topology = two_ports(8, 4)
    flows = ring_connections(across(4), 2)
    paths, _ = planned_paths(topology, flows, 2 * PORT)
    np.testing.assert_allclose(measure(topology, flows, paths, 2 * PORT).bus_bandwidth, 2 * PORT)
    by_hash = [measure(topology, flows, ecmp_paths(topology, flows, s), 2 * PORT).bus_bandwidth.min() for s in range(9)]
    assert np.median(by_hash) <= PORT


def test_balanced_ports_cost_what_they_say() -> None:
    """One of four uplinks of the left leaf fails; the right one could carry more, but balance forbids it."""
    topology = two_ports(8, 4)
    flows = ring_connections(across(4), 2)
    failed = [topology.link("leaf0L", "spine0"), topology.link("spine0", "leaf0L")]
    ports = [
        (topology.link(f"nic{n}", f"leaf{g}L"), topology.link(f"nic{n}", f"leaf{g}R"))
        for n, g in ((n, n // 4) for n in range(8))
    ]
    back = [
        (topology.link(f"leaf{g}L", f"nic{n}"), topology.link(f"leaf{g}R", f"nic{n}"))
        for n, g in ((n, n // 4) for n in range(8))
    ]
    free = divided_bandwidth(topology, flows, 2 * PORT, failed=failed)
    even = divided_bandwidth(topology, flows, 2 * PORT, failed=failed, ports=ports + back)
    assert even == pytest.approx(2 * PORT * 3 / 4)
    assert free == pytest.approx(2 * PORT * 7 / 8)
    paths, _ = planned_paths(topology, flows, 2 * PORT, ports=ports + back)
    load = link_loads(topology, flows, paths, 2 * PORT)[topology.resource[np.array(ports)]]
    np.testing.assert_allclose(load, 1.0)


def test_the_slowest_connection_sets_the_pace() -> None:
    # Two rings over one leaf; the first shares the port of rank 0 with another job.
    topology = leaf_spine(5, 5, 1)
    flows = ring_connections([RingJob("a", [[0, 1], [2, 3]]), RingJob("b", [[4, 0]])], 1)
    report = measure(topology, flows, ecmp_paths(topology, flows), PORT)
    assert report.rates.tolist() == pytest.approx([PORT / 2, PORT / 2, PORT, PORT, PORT / 2, PORT / 2])
    np.testing.assert_allclose(report.bus_bandwidth, PORT / 2)
    assert report.load.max() == pytest.approx(2.0)
    ceiling = measure(topology, flows, ecmp_paths(topology, flows), PORT / 10)
    np.testing.assert_allclose(ceiling.bus_bandwidth, PORT / 20)


def test_adaptive_queue_pairs_lose_less() -> None:
    topology = leaf_spine(16, 8, 8)
    flows = ring_connections(across(8), 8)
    for seed in range(5):
        paths = ecmp_paths(topology, flows, seed)
        even, adaptive = (measure(topology, flows, paths, PORT, choice).bus_bandwidth for choice in (False, True))
        assert (adaptive >= even * (1 - 1e-9)).all()
        assert adaptive.sum() > even.sum()
        assert (adaptive <= PORT * (1 + 1e-9)).all()


def test_works_on_a_fabric_without_leaves() -> None:
    """Two ways around a ring of four: opposite ranks have two equal paths."""
    wiring = Wiring("square")
    for a in wiring.devices(4):
        wiring.join(a, (a + 1) % 4, PORT, 1e-6)
    topology = wiring.topology()
    flows = ring_connections([RingJob("diagonal", [[0, 2]]), RingJob("other", [[1, 3]])], 2)
    paths, allocation = planned_paths(topology, flows, PORT)
    assert allocation.utilisation == pytest.approx(1.0)
    np.testing.assert_allclose(measure(topology, flows, paths, PORT).bus_bandwidth, PORT)


def test_same_seed_same_paths() -> None:
    topology = leaf_spine(8, 4, 4)
    flows = ring_connections(across(4), 2)
    np.testing.assert_array_equal(ecmp_paths(topology, flows, 3), ecmp_paths(topology, flows, 3))
    assert (ecmp_paths(topology, flows, 3) != ecmp_paths(topology, flows, 4)).any()
    first, second = (planned_paths(topology, flows, PORT, seed=2)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_connections_in_order() -> None:
    flows = ring_connections([RingJob("a", [[0, 1, 2]]), RingJob("b", [[4, 3], [5, 6]])], 2)
    assert flows.source.tolist() == [0, 0, 1, 1, 2, 2, 4, 4, 3, 3, 5, 5, 6, 6]
    assert flows.target.tolist() == [1, 1, 2, 2, 0, 0, 3, 3, 4, 4, 6, 6, 5, 5]
    assert flows.job.tolist() == [0] * 6 + [1] * 8
    assert flows.connection.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert flows.names == ("a", "b")


def test_nonsense_is_refused_in_one_line() -> None:
    topology = leaf_spine(4, 2, 2)
    flows = ring_connections([RingJob("a", [[0, 2]])])
    for make, said in [
        (lambda: RingJob("a", []), "rings"),
        (lambda: RingJob("a", [[0]]), "2 or more"),
        (lambda: RingJob("a", [[0, 1, 0]]), "rings"),
        (lambda: ring_connections([RingJob("a", [[0, 1]])], 0), "qps"),
        (lambda: measure(topology, flows, ecmp_paths(topology, flows), 0.0), "ceiling"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            make()  # type: ignore[no-untyped-call]
        assert "\n" not in str(caught.value)
