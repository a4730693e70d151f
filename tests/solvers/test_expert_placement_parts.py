"""Parts of expert placement one by one: exchanges, bounds, integer program, penalised balance."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.solvers.expert_placement import place_experts
from commlens.solvers.placement_bounds import matched, rough
from commlens.solvers.placement_exact import few, shortest_path
from commlens.solvers.placement_problem import PlacementProblem, placement_problem
from commlens.solvers.placement_program import integer_program
from commlens.solvers.placement_search import Search
from commlens.solvers.placement_starts import chain, rank_order, relabelled, threads
from commlens.solvers.placement_state import State
from commlens.solvers.placement_threads import best_exchanges

SEEDS = st.integers(0, 2**20)


def random_pairs(layers: int, experts: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((layers - 1, experts, experts)) ** 4


def shuffled(problem: PlacementProblem, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.array([random.permutation(np.repeat(np.arange(problem.devices), row)) for row in problem.spread()])


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([(4, 6, 3, 1), (3, 8, 4, 2), (5, 4, 2, 2), (3, 4, 4, 2)]))
def test_the_table_stays_true_move_by_move(seed, shape):
    layers, experts, devices, nodes = shape
    problem = placement_problem(random_pairs(layers, experts, seed), devices, nodes)
    state = State(problem, shuffled(problem, seed))
    search = Search(problem, np.random.default_rng(seed))
    search._kick(state)
    state.place_layer(1)
    fresh = State(problem, state.device)
    assert np.allclose(state.table, fresh.table)
    assert (state.counts == fresh.counts).all()
    layer, expert, target = seed % layers, seed % experts, seed % devices
    moved = state.device.copy()
    moved[layer, expert] = target
    change = state.table[layer, expert, target] - state.table[layer, expert, state.device[layer, expert]]
    assert problem.cost(moved) - problem.cost(state.device) == pytest.approx(change, abs=1e-9)


def tried_exchanges(problem: PlacementProblem, device: np.ndarray, a: int, b: int) -> float:
    """Most that can be saved by giving at most one expert of a for one of b in each layer, trying everything."""
    choices = []
    for row in device:
        gives, gets = [-1, *np.flatnonzero(row == a)], [-1, *np.flatnonzero(row == b)]
        choices.append(list(product(gives, gets)))
    best, before = 0.0, problem.objective(device)
    for chosen in product(*choices):
        other = device.copy()
        for row, (i, j) in zip(other, chosen, strict=True):
            if i >= 0:
                row[i] = b
            if j >= 0:
                row[j] = a
        counts = problem.counts(other)
        if problem.least is None:
            legal = (counts == problem.counts(device)).all()
        else:
            # A program that keeps account of one expert too many or too few: partial sums stay within one.
            drift = np.cumsum(counts[:, b] - problem.counts(device)[:, b])
            legal = drift[-1] == 0 and abs(drift).max() <= 1 and (counts >= problem.least).all()
        if legal:
            best = max(best, before - problem.objective(other))
    return best


@pytest.mark.parametrize("shape", [(3, 4, 2, 1), (4, 4, 2, 2), (3, 6, 3, 1), (3, 8, 4, 2)])
@pytest.mark.parametrize("penalised", [False, True])
def test_an_exchange_is_the_best_there_is(shape, penalised):
    layers, experts, devices, nodes = shape
    for seed in range(2):
        pairs = random_pairs(layers, experts, seed)
        more = {"load": np.random.default_rng(seed).random((layers, experts)), "balance": "penalised", "penalty": 0.1}
        problem = placement_problem(pairs, devices, nodes, **(more if penalised else {}))
        device = shuffled(problem, seed)
        state = State(problem, device)
        for a, b in combinations(range(devices), 2):
            (found,) = best_exchanges(state, np.array([a]), np.array([b]), np.random.default_rng(0))
            assert found.saved == pytest.approx(tried_exchanges(problem, device, a, b), abs=1e-9)


def test_pairs_tried_together_are_as_if_alone():
    problem = placement_problem(random_pairs(5, 12, 0), 6, 2)
    state = State(problem, shuffled(problem, 1))
    a, b, random = np.array([0, 1, 2]), np.array([5, 3, 4]), np.random.default_rng(0)
    together = best_exchanges(state, a, b, random)
    alone = [best_exchanges(state, a[[p]], b[[p]], random)[0] for p in range(3)]
    assert [e.saved for e in together] == pytest.approx([e.saved for e in alone])


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 4), st.integers(1, 4))
def test_the_matching_bounds_all_choices_of_partners(seed, experts, most):
    share = random_pairs(2, experts, seed)[0]
    share /= share.sum()
    best = 0.0
    for chosen in product([False, True], repeat=experts * experts) if experts < 4 else []:
        table = np.array(chosen).reshape(experts, experts)
        if table.sum(axis=0).max() <= most and table.sum(axis=1).max() <= most:
            best = max(best, float(share[table].sum()))
    if experts < 4:
        assert matched(share, min(most, experts)) == pytest.approx(best, rel=1e-6)
    assert matched(share, min(most, experts)) <= rough(share, min(most, experts)) * (1 + 1e-6)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.sampled_from([(4, 8, 4, 2), (4, 8, 4, 1), (3, 6, 6, 3), (3, 9, 3, 1)]))
def test_starts_are_balanced_and_renaming_is_never_worse(seed, shape):
    layers, experts, devices, nodes = shape
    problem = placement_problem(random_pairs(layers, experts, seed), devices, nodes)
    random = np.random.default_rng(seed)
    for device in (chain(problem, random), threads(problem, random, True), shuffled(problem, seed)):
        assert (problem.counts(device) == experts // devices).all()
        named = relabelled(problem, device)
        assert (problem.counts(named) == experts // devices).all()
        assert problem.cost(named) <= problem.cost(device) + 1e-9
        for row, new in zip(device, named, strict=True):  # the same experts are together
            assert ((row[:, None] == row) == (new[:, None] == new)).all()
            node, other = problem.node[row], problem.node[new]
            assert ((node[:, None] == node) == (other[:, None] == other)).all()


@pytest.mark.parametrize("shape", [(3, 4, 2, 1), (4, 4, 2, 2), (3, 4, 4, 2), (3, 6, 3, 1)])
def test_program_and_shortest_path_agree(shape):
    layers, experts, devices, nodes = shape
    for seed in range(2):
        problem = placement_problem(random_pairs(layers, experts, seed), devices, nodes)
        assert few(problem)
        best = problem.cost(shortest_path(problem))
        answer = integer_program(problem, rank_order(layers, experts, devices), 20)
        assert problem.cost(answer.device) == pytest.approx(best, rel=1e-5)
        assert answer.bound == pytest.approx(best, rel=1e-5)
        assert answer.bound <= best * (1 + 1e-9)


def least_objective(problem: PlacementProblem) -> float:
    """Try every device for every expert of every layer."""
    shape = (problem.layers, problem.experts)
    best = np.inf
    for chosen in product(range(problem.devices), repeat=shape[0] * shape[1]):
        device = np.array(chosen).reshape(shape)
        counts = problem.counts(device)
        if (counts.sum(axis=0) == device.size // problem.devices).all() and (counts >= problem.least).all():
            best = min(best, problem.objective(device))
    return best


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(2, 4, 2, 1), (2, 3, 2, 1), (4, 2, 2, 2), (2, 3, 3, 1)])
def test_penalised_balance_equals_brute_force(shape, penalty):
    layers, experts, devices, nodes = shape
    for seed, loaded, eta in product(range(2), [False, True], [1.0, 0.5]):
        pairs = random_pairs(layers, experts, seed)
        load = np.random.default_rng(seed).random((layers, experts)) if loaded else None
        arguments = {"load": load, "balance": "penalised", "penalty": penalty, "eta": eta}
        problem = placement_problem(pairs, devices, nodes, **arguments)
        answer = place_experts(pairs, devices, nodes, **arguments, kicks=3)
        best = least_objective(problem)
        assert answer.cost + penalty * answer.deviation == pytest.approx(best, rel=2e-5, abs=1e-9)
        assert answer.status == "optimal"
        assert answer.cost == pytest.approx(problem.cost(answer.device))
        assert answer.bound <= answer.cost


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.sampled_from([(4, 8, 4, 2, 0.4), (4, 6, 4, 1, 0.5), (5, 8, 2, 1, 1.0)]), st.booleans())
def test_penalised_balance_keeps_what_is_asked(seed, shape, loaded):
    layers, experts, devices, nodes, eta = shape
    pairs = random_pairs(layers, experts, seed)
    load = np.random.default_rng(seed).random((layers, experts)) if loaded else None
    answer = place_experts(
        pairs, devices, nodes, load=load, balance="penalised", penalty=0.1, eta=eta, prove=False, restarts=2, kicks=2
    )  # fmt: skip
    counts = np.array([np.bincount(row, minlength=devices) for row in answer.device])
    assert (counts.sum(axis=0) == layers * experts // devices).all()
    if eta < 1:
        assert counts.min() >= np.ceil(eta * experts / devices)
    uneven = np.abs(counts - experts / devices).sum() / (layers * experts / devices)
    if load is not None:
        share = load / load.sum(axis=1, keepdims=True)
        tokens = np.array([np.bincount(row, s, devices) for row, s in zip(answer.device, share, strict=True)])
        uneven += np.abs(tokens - 1 / devices).sum() * devices / layers
    assert answer.deviation == pytest.approx(uneven, abs=1e-9)


def test_a_dear_penalty_is_hard_balance_and_a_cheap_one_moves_less():
    pairs = random_pairs(3, 6, 1)
    hard = place_experts(pairs, 2)
    dear = place_experts(pairs, 2, balance="penalised", penalty=1e3)
    free = place_experts(pairs, 2, balance="penalised", penalty=0.0)
    assert dear.deviation == 0
    assert dear.cost == pytest.approx(hard.cost)
    assert free.cost <= hard.cost + 1e-9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eta": 0.9, "devices": 3}, r"eta: 0.9 asks for 2 experts of a layer on each of 3 devices, .* at most 0.75\)"),
        ({"devices": 5}, r"devices: 5 do not divide the 12 experts of all layers \(legal: 1, 2, 3, 4, 6, 12\)"),
        ({"load": np.ones((3, 3))}, r"load: shape \(3, 3\) \(legal: \(3, 4\)\)"),
        ({"load": -np.ones((3, 4))}, r"load\[0, 0\]: -1.0 \(legal: a finite number, 0 or more\)"),
    ],
)
def test_bad_input_of_penalised_balance_is_answered_by_one_line(change, says):
    arguments = {"pairs": np.ones((2, 4, 4)), "devices": 2, "balance": "penalised"} | change
    with pytest.raises(InputError, match=says) as caught:
        place_experts(**arguments)
    assert "\n" not in str(caught.value)
