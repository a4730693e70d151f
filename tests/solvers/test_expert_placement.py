"""Expert placement against brute force, what every placement keeps, time limits, and input that cannot be placed."""

import math
from itertools import permutations, product
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.solvers.expert_placement import crossings, place_experts, round_robin


def planted(layers: int, experts: int, partners: int, affinity: float = 0.5, tokens: int = 20_000) -> np.ndarray:
    """Counts of tokens that mostly go to one of a few partners, in an order hidden in every layer."""
    random = np.random.default_rng(3)
    share = np.full((layers - 1, experts, experts), (1 - affinity) / experts**2)
    hidden = [random.permutation(experts) for _ in range(layers)]
    for boundary in range(layers - 1):
        for step in range(partners):
            other = hidden[boundary + 1][(np.arange(experts) + step) % experts]
            share[boundary, hidden[boundary], other] += affinity / partners / experts
    return np.array([random.multinomial(tokens, s.ravel() / s.sum()).reshape(s.shape) for s in share])


def counted(pairs, device, inside: int, node_cost: float = 2.0, device_cost: float = 1.0) -> float:  # type: ignore[no-untyped-def]
    """Cost pair by pair, without the code under test."""
    cost = 0.0
    for boundary, table in enumerate(np.asarray(pairs, dtype=float)):
        total = table.sum()
        for i, j in zip(*np.nonzero(table), strict=True):
            a, b = int(device[boundary][i]), int(device[boundary + 1][j])
            price = 0.0 if a == b else device_cost if a // inside == b // inside else node_cost
            cost += price * table[i, j] / total
    return cost


def arrangements(experts: int, devices: int) -> list[tuple[int, ...]]:
    return sorted(set(permutations(sorted(list(range(devices)) * (experts // devices)))))


def least(pairs: np.ndarray, devices: int, nodes: int = 1, node_cost: float = 2.0) -> float:
    """Least cost under hard balance: every arrangement of a layer behind every one of the layer before."""
    experts, inside = pairs.shape[1], devices // nodes
    ways = arrangements(experts, devices)
    value = np.zeros(len(ways))
    for table in pairs:
        step = [[counted([table], (a, b), inside, node_cost) for b in ways] for a in ways]
        value = (value[:, None] + np.array(step)).min(axis=0)
    return float(value.min())


def affine(layers: int, experts: int, seed: int, sparse: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    pairs = random.random((layers - 1, experts, experts)) ** 4
    return pairs * (random.random(pairs.shape) < 0.5) if sparse else pairs


SMALL = [(3, 4, 2, 1), (4, 4, 2, 1), (3, 4, 4, 2), (3, 6, 2, 1), (4, 4, 2, 2)]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", SMALL)
def test_equals_brute_force(shape, sparse):
    layers, experts, devices, nodes = shape
    for seed in range(3):
        pairs = affine(layers, experts, seed, sparse)
        best = least(pairs, devices, nodes)
        proved = place_experts(pairs, devices, nodes)
        assert proved.status == "optimal"
        assert proved.gap == 0
        assert proved.cost == pytest.approx(best, abs=1e-9)
        assert proved.cost == pytest.approx(counted(pairs, proved.device, devices // nodes))
        searched = place_experts(pairs, devices, nodes, prove=False, kicks=20)
        assert searched.cost == pytest.approx(best, abs=1e-9)
        assert searched.bound <= best + 1e-9


def test_more_small_cases_equal_the_proven_optimum():
    for seed, (layers, experts, devices, nodes) in product(range(5), [(3, 6, 3, 1), (6, 4, 2, 1), (3, 8, 2, 1)]):
        pairs = affine(layers, experts, 100 + seed, seed % 2 == 0)
        searched = place_experts(pairs, devices, nodes, prove=False, kicks=20, seed=seed)
        proved = place_experts(pairs, devices, nodes)
        assert proved.status == "optimal"
        assert searched.cost == pytest.approx(proved.cost, abs=1e-9)


def test_one_expert_a_device_is_a_chain_of_assignments():
    pairs = affine(4, 5, 0)
    best = sum(1 - max(sum(t[i, p[i]] for i in range(5)) for p in permutations(range(5))) / t.sum() for t in pairs)
    answer = place_experts(pairs, 5, prove=True)
    assert answer.status == "optimal"
    assert answer.crossings == answer.cost == pytest.approx(best)


@st.composite
def cases(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    nodes, inside, held = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)))
    layers, seed = draw(st.integers(2, 5)), draw(st.integers(0, 2**20))
    pairs = np.random.default_rng(seed).integers(0, 4, (layers - 1, *2 * [nodes * inside * held]))
    return pairs, nodes * inside, nodes


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from([1.0, 2.0, 5.0]))
def test_balanced_never_worse_than_rank_order_and_within_bounds(case, node_cost):
    pairs, devices, nodes = case
    layers, experts = len(pairs) + 1, pairs.shape[1]
    answer = place_experts(pairs, devices, nodes, node_cost=node_cost, prove=False, restarts=3, kicks=3)
    for row in answer.device:
        assert (np.bincount(row, minlength=devices) == experts // devices).all()
    inside = devices // nodes
    live = pairs[pairs.sum(axis=(1, 2)) > 0]
    if len(live) == len(pairs):
        assert answer.cost == pytest.approx(counted(pairs, answer.device, inside, node_cost), abs=1e-9)
    base = crossings(pairs, round_robin(layers, experts, devices), nodes)
    assert answer.cost <= base[0] + (node_cost - 1) * base[1] + 1e-9
    assert answer.cost == pytest.approx(answer.crossings + (node_cost - 1) * answer.node_crossings, abs=1e-9)
    assert (answer.crossings, answer.node_crossings) == pytest.approx(crossings(pairs, answer.device, nodes))
    assert 0 <= answer.bound <= answer.cost
    assert 0 <= answer.gap <= 1


@settings(max_examples=15, deadline=None)
@given(cases(), st.data())
def test_bounds_hold_for_any_placement(case, data):
    pairs, devices, nodes = case
    answer = place_experts(pairs, devices, nodes, restarts=1, kicks=0, time_limit=0.5)
    held = np.arange(pairs.shape[1]) % devices
    device = np.array([data.draw(st.permutations(held.tolist())) for _ in range(len(pairs) + 1)])
    other = crossings(pairs, device, nodes)
    assert answer.bound <= other[0] + other[1] + 1e-9
    if answer.status == "optimal":
        assert answer.cost <= other[0] + other[1] + 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**20), st.data())
def test_names_and_units_do_not_matter(seed, data):
    pairs = affine(4, 6, seed)
    best = place_experts(pairs, 3).cost
    orders = [np.array(data.draw(st.permutations(range(6)))) for _ in range(4)]
    mixed = np.array([t[np.ix_(a, b)] for t, a, b in zip(pairs, orders, orders[1:], strict=False)])
    assert place_experts(mixed, 3).cost == pytest.approx(best, abs=1e-9)
    assert place_experts(1e250 * pairs, 3).cost == pytest.approx(best, abs=1e-9)
    assert place_experts(pairs, 3, device_cost=0.5, node_cost=7).cost == pytest.approx(best / 2, abs=1e-9)


def test_the_same_seed_gives_the_same_placement():
    pairs = planted(6, 16, 3)
    first, again = (place_experts(pairs, 4, 2, prove=False, kicks=5, time_limit=60, seed=7) for _ in range(2))
    assert (first.device == again.device).all()
    assert first.status == "heuristic"


def test_clusters_are_found_and_proved():
    random = np.random.default_rng(0)
    hidden = np.array([random.permutation(32) // 4 for _ in range(6)])
    pairs = (hidden[:-1, :, None] == hidden[1:, None, :]).astype(float)
    answer = place_experts(pairs, 8, 2)
    assert (answer.cost, answer.status, answer.gap) == (0, "optimal", 0)


def test_thirty_percent_fewer_crossings_on_64_experts():
    pairs = planted(12, 64, 4)
    base = crossings(pairs, round_robin(12, 64, 8))[0]
    answer = place_experts(pairs, 8, restarts=3, kicks=0)
    assert answer.crossings < 0.7 * base
    assert answer.bound > 0.3 * base


def test_two_nodes_cost_what_one_does_when_they_are_as_near():
    pairs = planted(5, 16, 3)
    far = place_experts(pairs, 4, 2, node_cost=1, prove=False)
    near = place_experts(pairs, 4, prove=False)
    assert far.cost == pytest.approx(near.cost, rel=0.02)
    assert far.node_crossings <= far.crossings == pytest.approx(far.cost)


def test_boundaries_without_tokens_cost_nothing():
    pairs = affine(3, 4, 0)
    empty = np.zeros_like(pairs)
    answer = place_experts(empty, 2)
    assert (answer.cost, answer.bound, answer.gap, answer.status) == (0, 0, 0, "optimal")
    half = np.stack([pairs[0], empty[0]])
    assert place_experts(half, 2).cost == pytest.approx(least(pairs[:1], 2))


def test_one_device_and_one_expert():
    assert place_experts(affine(3, 4, 0), 1).cost == 0
    assert place_experts(np.ones((2, 1, 1)), 1).status == "optimal"


@pytest.mark.parametrize("limit", [0.01, 0.5, 1.5])
@pytest.mark.parametrize("size", [(10, 16, 4, 2), (8, 64, 8, 1)])
def test_time_limit_is_kept(size, limit):
    layers, experts, devices, nodes = size
    pairs = planted(layers, experts, 3)
    begin = perf_counter()
    answer = place_experts(pairs, devices, nodes, time_limit=limit, kicks=10**6)
    assert perf_counter() - begin < limit + 1.5
    assert answer.status == "time limit"
    assert 0 < answer.bound < answer.cost <= 2 * layers


def test_progress_goes_up_to_the_total():
    seen: list[tuple[int, int]] = []
    place_experts(affine(4, 8, 0), 2, restarts=2, kicks=4, progress=lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pairs": np.full((2, 4, 4), -1.0)}, r"pairs\[0, 0, 0\]: -1.0 \(legal: a finite number, 0 or more\)"),
        ({"pairs": np.full((2, 4, 4), math.nan)}, r"pairs\[0, 0, 0\]: nan"),
        ({"pairs": np.full((2, 4, 4), math.inf)}, r"pairs\[0, 0, 0\]: inf"),
        ({"pairs": np.ones((4, 4))}, r"pairs: shape \(4, 4\) \(legal: 3 dimensions"),
        ({"pairs": np.ones((2, 4, 3))}, r"pairs: shape \(2, 4, 3\) \(legal: \(layers - 1, experts, experts\)"),
        ({"pairs": np.ones((0, 4, 4))}, r"pairs: shape \(0, 4, 4\)"),
        ({"pairs": [[["a"]]]}, "pairs: not an array of numbers"),
        ({"devices": 3}, r"devices: 3 do not divide 4 experts \(legal: 1, 2, 4; or balance 'penalised'\)"),
        ({"devices": 0}, r"devices: 0 \(legal: a whole number, 1 or more\)"),
        ({"devices": 2.0}, r"devices: 2.0 \(legal"),
        ({"nodes": 3}, r"nodes: 3 does not divide 2 devices \(legal: 1, 2\)"),
        ({"nodes": True}, r"nodes: True \(legal"),
        ({"eta": 0.0, "balance": "penalised"}, r"eta: 0.0 \(legal: above 0, at most 1\)"),
        ({"eta": 1.1}, r"eta: 1.1 \(legal"),
        ({"eta": math.nan}, r"eta: nan \(legal"),
        ({"balance": "soft"}, r"balance: 'soft' \(legal: 'hard', 'penalised'\)"),
        ({"penalty": -1.0}, r"penalty: -1.0 \(legal"),
        ({"node_cost": 0.5}, r"node_cost: 0.5 \(legal: a finite number, device_cost = 1.0 or more\)"),
        ({"device_cost": math.inf}, r"device_cost: inf \(legal"),
        ({"time_limit": 0.0}, r"time_limit: 0.0 \(legal"),
        ({"restarts": 0}, r"restarts: 0 \(legal: a whole number, 1 or more\)"),
        ({"kicks": -1}, r"kicks: -1 \(legal: a whole number, 0 or more\)"),
        ({"seed": -1}, r"seed: -1 \(legal"),
        ({"load": np.ones((3, 4))}, r"load: given with balance 'hard'"),
    ],
)
def test_bad_input_is_answered_by_one_line(change, says):
    arguments = {"pairs": np.ones((2, 4, 4)), "devices": 2} | change
    with pytest.raises(InputError, match=says) as caught:
        place_experts(**arguments)
    assert "\n" not in str(caught.value)


def test_crossings_and_round_robin_refuse_bad_input():
    pairs = np.ones((1, 4, 4))
    with pytest.raises(InputError, match=r"device: shape \(2, 3\) \(legal: \(2, 4\)"):
        crossings(pairs, np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"device\[0, 1\]: 0.5 \(legal: a whole number"):
        crossings(pairs, [[0, 0.5, 1, 1], [0, 0, 1, 1]])
    with pytest.raises(InputError, match=r"device: 1 \(legal: 0 to 0\)"):
        crossings(pairs, [[0, 0, 1, 1]] * 2, devices=1)
    with pytest.raises(InputError, match="nodes: 2 does not divide 3 devices"):
        crossings(pairs, [[0, 1, 2, 2]] * 2, 2)
    with pytest.raises(InputError, match="devices: 3 do not divide 4 experts"):
        round_robin(2, 4, 3)
    assert round_robin(2, 4, 2).tolist() == [[0, 0, 1, 1]] * 2
    assert crossings(pairs, round_robin(2, 4, 4), 2) == pytest.approx((0.75, 0.5))
