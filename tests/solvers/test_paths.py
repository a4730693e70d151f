"""Path allocation against brute force, bounds, a given start, and the size it is meant for."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.solvers import path_bounds
from commlens.solvers.path_problem import path_problem
from commlens.solvers.path_search import Search
from commlens.solvers.paths import allocate, allocate_fractions, balanced_limits


def leaf_spine(pairs: list[tuple[int, int]], leaves: int, spines: int) -> np.ndarray:
    """Candidates of flows between leaves: one per spine; uplinks first, then downlinks."""
    return np.array(
        [[[a * spines + s, (leaves + b) * spines + s] for s in range(spines)] for a, b in pairs]
    ).reshape(len(pairs), spines, 2)  # fmt: skip


def utilisation(demand, candidates, capacity, choice) -> float:  # type: ignore[no-untyped-def]
    """Counted link by link, without the code under test."""
    load = [0.0] * len(capacity)
    for size, paths, pick in zip(demand, candidates, choice, strict=True):
        for link in paths[pick]:
            load[link] += size
    return max(amount / room for amount, room in zip(load, capacity, strict=True))


@st.composite
def cases(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    """Up to 5 flows with up to 3 ragged paths over 6 links of different capacity."""
    links = 6
    flows = draw(st.integers(1, 5))
    size = st.sampled_from([1.0, 1.0, 2.0, 0.7, 1.9])
    path = st.lists(st.integers(0, links - 1), max_size=3)  # a link may come twice, a path may be empty
    candidates = [draw(st.lists(path, min_size=1, max_size=3)) for _ in range(flows)]
    demand = [draw(size) for _ in range(flows)]
    capacity = [draw(st.sampled_from([1.0, 1.0, 2.0, 3.5])) for _ in range(links)]
    return demand, candidates, capacity


@settings(max_examples=120)
@given(cases())
def test_equals_brute_force(case) -> None:  # type: ignore[no-untyped-def]
    demand, candidates, capacity = case
    best = min(
        utilisation(demand, candidates, capacity, choice) for choice in product(*(range(len(c)) for c in candidates))
    )
    answer = allocate(demand, candidates, capacity)
    assert answer.utilisation == pytest.approx(best, rel=1e-6)
    assert answer.utilisation == pytest.approx(utilisation(demand, candidates, capacity, answer.choice))
    assert answer.status == "optimal"
    assert answer.bound <= best * (1 + 1e-9)


@settings(max_examples=60)
@given(cases(), st.randoms(use_true_random=False))
def test_bounds_hold_and_a_start_is_never_made_worse(case, random) -> None:  # type: ignore[no-untyped-def]
    demand, candidates, capacity = case
    start = [random.randrange(len(paths)) for paths in candidates]
    before = utilisation(demand, candidates, capacity, start)
    quick = allocate(demand, candidates, capacity, start=start, restarts=0, shakes=0, time_limit=0)
    assert quick.utilisation <= before * (1 + 1e-12)
    full = allocate(demand, candidates, capacity)
    assert quick.bound <= full.utilisation * (1 + 1e-6)
    assert allocate_fractions(demand, candidates, capacity).utilisation <= full.utilisation * (1 + 1e-6)
    for answer in (quick, full):
        assert 0 <= answer.gap <= 1
        if answer.utilisation:
            assert answer.bound == pytest.approx(answer.utilisation * (1 - answer.gap), rel=2e-6)


@settings(max_examples=60)
@given(cases())
def test_the_divided_flows_are_a_linear_program(case) -> None:  # type: ignore[no-untyped-def]
    """Checked with the program written out flow by flow, nothing merged."""
    from scipy.optimize import linprog

    demand, candidates, capacity = case
    columns = [(i, path) for i, paths in enumerate(candidates) for path in paths]
    above = np.zeros((len(capacity), len(columns) + 1))
    for column, (i, path) in enumerate(columns):
        np.add.at(above[:, column], path, demand[i])
    above[:, -1] = -np.array(capacity)
    equal = np.array([[*(float(i == flow) for i, _ in columns), 0.0] for flow in range(len(demand))])
    exact = linprog(np.eye(len(columns) + 1)[-1], above, np.zeros(len(capacity)), equal, np.ones(len(demand)))
    answer = allocate_fractions(demand, candidates, capacity)
    assert answer.utilisation == pytest.approx(exact.fun, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(answer.share.sum(axis=1), 1.0, rtol=1e-9)
    assert (answer.load / capacity).max() <= answer.utilisation * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("leaves", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_flows_reach_the_number_of_colours(leaves: int, seed: int) -> None:
    """64 flows over 8 spines: the busiest leaf's flows over 8, rounded up (König's edge colouring)."""
    rng = np.random.default_rng(seed)
    source = rng.integers(0, leaves, 64)
    target = (source + rng.integers(1, leaves, 64)) % leaves
    degree = max(np.bincount(source).max(), np.bincount(target).max())
    candidates = leaf_spine(list(zip(source, target, strict=True)), leaves, 8)
    answer = allocate(np.full(64, 25e9), candidates, np.full(16 * leaves, 50e9))
    assert answer.utilisation == pytest.approx(-(-degree // 8) * 0.5)
    assert answer.gap == 0
    assert answer.status == "optimal"
    assert answer.seconds < 5


def test_unequal_flows_have_a_small_gap() -> None:
    rng = np.random.default_rng(5)
    source = rng.integers(0, 8, 64)
    candidates = leaf_spine([(int(a), (int(a) + 1) % 8) for a in source], 8, 8)
    answer = allocate(rng.uniform(0.5, 1.5, 64), candidates, np.ones(128), time_limit=1)
    assert answer.gap <= 0.01


def test_a_failed_spine_leaves_seven_eighths() -> None:
    """C4's case: equal flows that filled 8 uplinks are divided over 7."""
    pairs = [(0, 1)] * 8 + [(1, 0)] * 8
    candidates = leaf_spine(pairs, 2, 8)
    whole = allocate_fractions(np.ones(16), candidates, np.ones(32))
    failed = allocate_fractions(np.ones(16), candidates, np.ones(32), excluded=[3])
    assert whole.utilisation == pytest.approx(1.0)
    assert failed.utilisation == pytest.approx(8 / 7)
    assert failed.load[3] == 0
    undivided = allocate(np.ones(16), candidates, np.ones(32), excluded=[3], start=np.arange(16) % 8)
    assert undivided.utilisation == pytest.approx(2.0)
    # Those that were not on the failed link stay where they were.
    assert (undivided.choice == np.arange(16) % 8).sum() >= 14


def test_limits_balance_the_ports() -> None:
    # Left (0) and right (1) port of an adapter, then a wide link behind each; only the right one is idle.
    candidates = [[[0, 2], [1, 3]]] * 4
    capacity = [10.0, 10.0, 1.0, 4.0]
    free = allocate(np.ones(4), candidates, capacity)
    assert free.load[:2].tolist() == [1.0, 3.0]
    even = allocate(np.ones(4), candidates, capacity, limits=balanced_limits(4, [[0, 1]], [4.0]))
    assert even.load[:2].tolist() == [2.0, 2.0]
    assert even.status == "optimal"
    shared = allocate_fractions(np.ones(4), candidates, capacity, limits=balanced_limits(4, [[0, 1]], [4.0], 1.0))
    assert shared.load[0] - shared.load[1] == pytest.approx(-1.0, abs=1e-6)
    odd = allocate(np.ones(3), candidates[:3], capacity, limits=balanced_limits(4, [[0, 1]], [3.0]))
    assert odd.status == "over limit"
    with pytest.raises(ValueError, match="limits"):
        allocate_fractions(np.ones(3), [[[0]]] * 3, [1.0], limits=[2.0])


def test_the_integer_program_alone_finds_the_best() -> None:
    """From a bad start, without the search: bound and answer meet at the known optimum."""
    problem = path_problem(np.ones(12), leaf_spine([(0, 1)] * 6 + [(1, 2)] * 6, 3, 4), np.ones(24))
    worst = np.zeros(12, dtype=np.int64)
    proved = path_bounds.integer_program(problem, worst, 10.0)
    assert proved.bound == pytest.approx(2.0, rel=1e-5)
    assert problem.loads(proved.choice)[:-1].max() == 2.0


@settings(max_examples=30)
@given(cases())
def test_the_search_keeps_its_books(case) -> None:  # type: ignore[no-untyped-def]
    problem = path_problem(*case)
    search = Search(problem, np.random.default_rng(0))
    search.begin_from(np.full(len(problem.demand), -1))
    search.shake(3, 0.0)
    np.testing.assert_allclose(search.load[:-1], problem.loads(search.choice)[:-1], atol=1e-9)
    assert problem.offered[np.arange(len(problem.demand)), search.best].all()


def test_same_seed_same_answer() -> None:
    rng = np.random.default_rng(0)
    candidates = leaf_spine([(int(a), (int(a) + 1) % 4) for a in rng.integers(0, 4, 40)], 4, 4)
    first, second = (
        allocate(rng_size, candidates, np.ones(32), time_limit=0, seed=3)
        for rng_size in [np.linspace(1, 2, 40)] * 2
    )  # fmt: skip
    np.testing.assert_array_equal(first.choice, second.choice)


def test_nothing_and_nonsense() -> None:
    assert allocate([], np.zeros((0, 1, 1), dtype=int), [1.0]).utilisation == 0
    assert allocate([0.0, 0.0], [[[0]], [[0], []]], [1.0]).status == "optimal"
    assert allocate([1.0], [[[]]], [1.0]).utilisation == 0
    for arguments, said in [
        (([-1.0], [[[0]]], [1.0]), "demands"),
        (([1.0], [[[0]]], [0.0]), "capacities"),
        (([1.0], [[[1]]], [1.0]), "fit"),
        (([1.0, 1.0], [[[0]]], [1.0]), "fit"),
        (([1.0], [[]], [1.0]), "flow 0 has no path"),
    ]:
        with pytest.raises(ValueError, match=said):
            allocate(*arguments)
    with pytest.raises(ValueError, match="flow 0 has no path"):
        allocate([1.0], [[[0]]], [1.0], excluded=[0])
