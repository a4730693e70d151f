"""Copies of hot experts: brute force, bounds, what every answer keeps, and input that cannot be placed."""

from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.solvers.expert_placement import replicate


def least(load: np.ndarray, devices: int, slots: int) -> float:
    """Least load of the busiest device over the mean: every content (or emptiness) of every device."""
    experts = len(load)
    contents = list(combinations_with_replacement(range(-1, experts), slots))
    best = np.inf
    for chosen in combinations_with_replacement(contents, devices):
        places = np.array(chosen)
        copies = np.bincount(places[places >= 0], minlength=experts)
        if copies.min() > 0:
            piece = np.append(load / copies, 0.0)
            best = min(best, piece[places].sum(axis=1).max())
    return float(best * devices / load.sum())


LOADS = st.lists(st.integers(0, 20), min_size=2, max_size=4).filter(any).map(lambda x: np.array(x, dtype=float))


@settings(max_examples=60, deadline=None)
@given(LOADS, st.sampled_from([(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)]))
def test_bound_and_answer_against_brute_force(load, shape):
    devices, slots = shape
    if devices * slots < len(load):
        return
    answer = replicate(load[None], devices, slots)
    best = least(load, devices, slots)
    assert answer.bound[0] <= best * (1 + 1e-9)
    assert best <= answer.imbalance[0] * (1 + 1e-9)
    assert answer.imbalance[0] <= 1.34 * best  # a heuristic: the best mostly, near it always


def test_mostly_the_best():
    random = np.random.default_rng(0)
    shapes = [(2, 2, 3), (2, 3, 4), (3, 2, 4), (4, 1, 3)]
    tried = [(random.random(e) ** 3 + 0.01, d, s) for d, s, e in shapes for _ in range(10)]
    same = [replicate(x[None], d, s).imbalance[0] <= least(x, d, s) * (1 + 1e-6) for x, d, s in tried]
    assert np.mean(same) > 0.7


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(1, 12), st.integers(0, 3))
def test_every_expert_has_a_place_and_loads_are_as_stated(seed, devices, experts, more):
    random = np.random.default_rng(seed)
    load = random.pareto(1.2, (3, experts)) + 0.01
    slots = -(-experts // devices) + more
    answer = replicate(load, devices, slots, pairs=random.random((2, experts, experts)))
    assert answer.expert.shape == (3, devices, slots)
    share = load / load.sum(axis=1, keepdims=True)
    for layer in range(3):
        places = answer.expert[layer]
        assert (np.bincount(places[places >= 0], minlength=experts) == answer.copies[layer]).all()
        assert answer.copies[layer].min() >= 1
        held = np.append(share[layer] / answer.copies[layer], 0.0)[places].sum(axis=1)
        assert answer.imbalance[layer] == pytest.approx(held.max() * devices)
    assert (answer.bound >= 1 - 1e-9).all()
    assert (answer.bound <= answer.imbalance).all()
    assert answer.gap == pytest.approx(1 - answer.bound / answer.imbalance)
    assert 0 <= answer.crossings <= 2


def test_a_place_more_relieves_a_hot_expert():
    load = np.array([[8.0, 1, 1, 1, 1, 1, 1, 1]])
    assert replicate(load, 4, 2).imbalance[0] == pytest.approx(9 / (15 / 4))
    assert replicate(load, 4, 2).gap[0] == pytest.approx(0, abs=1e-9)
    three = replicate(load, 4, 3)
    assert three.copies[0, 0] >= 3
    assert three.imbalance[0] < 1.1


def test_names_of_devices_follow_the_tokens():
    pairs = np.eye(4)[[1, 2, 3, 0]][None]  # expert i goes to i + 1
    answer = replicate(np.ones((2, 4)), 4, 1, pairs=pairs)
    assert answer.crossings == pytest.approx(0)
    tables = np.random.default_rng(0).random((2, 4, 4))
    answer = replicate(np.random.default_rng(1).random((3, 4)), 2, 3, pairs=tables)
    moves = 0.0
    for boundary, table in enumerate(tables):
        here, there = (
            np.array([[(row == e).sum() / copies[e] for row in places] for e in range(4)])
            for places, copies in zip(answer.expert[boundary:][:2], answer.copies[boundary:][:2], strict=True)
        )
        stay = [table[i, j] * here[i, c] * there[j, c] for i, j, c in product(range(4), range(4), range(2))]
        moves += 1 - sum(stay) / table.sum()
    assert answer.crossings == pytest.approx(moves)
    assert np.isnan(replicate(np.ones((2, 4)), 2, 2).crossings)


def test_a_layer_without_tokens_is_even():
    answer = replicate(np.zeros((1, 4)), 2, 2)
    assert answer.imbalance[0] == pytest.approx(1)


def test_many_experts_are_nearly_even():
    load = np.random.default_rng(0).zipf(1.5, (4, 256)).clip(max=2000).astype(float)
    answer = replicate(load, 64, 5)
    assert (answer.imbalance < 1.1).all()
    assert answer.gap == pytest.approx(1 - answer.bound / answer.imbalance)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slots": 1}, r"slots: 1 on each of 2 devices are too few for 4 experts \(legal: 2 or more\)"),
        ({"slots": 0}, r"slots: 0 \(legal: a whole number, 1 or more\)"),
        ({"devices": 0}, r"devices: 0 \(legal"),
        ({"load": np.ones(4)}, r"load: shape \(4,\) \(legal: 2 dimensions\)"),
        ({"load": np.ones((2, 0))}, r"load: shape \(2, 0\) \(legal: \(layers, experts\), 1 or more of each\)"),
        ({"load": np.full((2, 4), np.nan)}, r"load\[0, 0\]: nan"),
        ({"pairs": np.ones((2, 4, 4))}, r"pairs: shape \(2, 4, 4\) \(legal: \(1, 4, 4\), as load has it\)"),
    ],
)
def test_bad_input_is_answered_by_one_line(change, says):
    arguments = {"load": np.ones((2, 4)), "devices": 2, "slots": 2} | change
    with pytest.raises(InputError, match=says) as caught:
        replicate(**arguments)
    assert "\n" not in str(caught.value)
