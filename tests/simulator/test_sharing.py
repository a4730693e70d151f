"""Max-min rates against a linear program, and against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from commlens.simulator import max_min

FRACTIONS = st.sampled_from([0.0, 0.0, 0.1, 0.18, 0.25, 1 / 3, 0.5, 0.7, 0.9, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    activities, resources = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    usage = [[draw(FRACTIONS) for _ in range(resources)] for _ in range(activities)]
    weight = [draw(st.sampled_from([0.25, 1.0, 1.0, 2.0, 5.0])) for _ in range(activities)]
    priority = [draw(st.sampled_from([-1, 0, 0, 3])) for _ in range(activities)]
    return np.array(usage), np.array(weight), np.array(priority)


def lexicographic(usage: np.ndarray, weight: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """Raise the lowest share as far as a linear program allows, fix who cannot go on, repeat."""
    count = len(usage)
    dominant = usage.max(axis=1)
    share = np.where(dominant > 0, dominant / weight, 0.0)  # of a full-speed activity
    speed = np.zeros(count)
    speed[dominant == 0] = 1.0
    left = np.ones(usage.shape[1])

    def best(cost: np.ndarray, rising: list[int], fixed: dict[int, float], floor: bool, level: float):
        # Variables: the speeds of the rising ones, then the level; `floor` keeps all at the level.
        size = len(rising)
        room = left - sum((usage[i] * x for i, x in fixed.items()), np.zeros(len(left)))
        rows = [np.append(usage[rising].T, np.zeros((len(left), 1)), axis=1)]
        bounds_above = [np.maximum(room, 0.0)]
        lower = np.zeros((size, size + 1))
        lower[np.arange(size), np.arange(size)] = -share[rising]
        if floor:
            bounds_above.append(np.full(size, -level))
        else:
            lower[:, -1] = 1.0
            bounds_above.append(np.zeros(size))
        rows.append(lower)
        answer = linprog(
            -cost, A_ub=np.vstack(rows), b_ub=np.concatenate(bounds_above),
            bounds=[(0, 1)] * size + [(0, None)],
        )  # fmt: skip
        assert answer.status == 0
        return answer.x

    for number in sorted(set(priority.tolist())):
        rising = [i for i in range(count) if priority[i] == number and dominant[i] > 0]
        fixed: dict[int, float] = {}
        while rising:
            size = len(rising)
            level = best(np.eye(size + 1)[-1], rising, fixed, False, 0.0)[-1]
            stuck = []
            for place, i in enumerate(rising):
                most = best(np.eye(size + 1)[place], rising, fixed, True, max(level - 1e-10, 0))[place]
                if most * share[i] <= level + 1e-7 or level >= share[i] - 1e-9:
                    stuck.append(i)
            assert stuck
            for i in stuck:
                fixed[i] = min(level / share[i], 1.0)
                rising.remove(i)
        for i, value in fixed.items():
            speed[i] = value
            left = np.maximum(left - usage[i] * value, 0.0)
    return speed


@settings(max_examples=80)
@given(cases())
def test_equals_the_linear_program(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(max_min(*case), lexicographic(*case), atol=2e-6)


@given(cases())
def test_nobody_can_gain_without_a_poorer_one_losing(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    usage, weight, priority = case
    speed = max_min(*case)
    assert ((speed >= 0) & (speed <= 1)).all()
    load = speed @ usage
    assert (load <= 1 + 1e-9).all()
    share = speed * usage.max(axis=1) / weight
    for i in np.flatnonzero(speed < 1 - 1e-9):
        full = (usage[i] > 0) & (load >= 1 - 1e-9)
        rivals = [
            (priority[usage[:, r] * speed > 1e-9] <= priority[i]).all()
            and all(share[j] <= share[i] + 1e-9 for j in np.flatnonzero((usage[:, r] > 0) & (priority == priority[i])))
            for r in np.flatnonzero(full)
        ]
        assert any(rivals)


@pytest.mark.parametrize(
    ("usage", "weight", "priority", "expected"),
    [
        ([[0.18], [1.0]], None, None, [1.0, 0.82]),
        ([[1.0], [1.0]], [1.0, 3.0], None, [0.25, 0.75]),
        ([[1.0], [1.0]], None, [1, 0], [0.0, 1.0]),
        ([[1.0], [0.6]], None, [1, 0], [0.4, 1.0]),
        # Two links in a row: the long flow and its two rivals each get half.
        ([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], None, None, [0.5, 0.5, 0.5]),
        # The third flow takes what the first two leave of the second link.
        ([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]], None, None, [0.5, 0.5, 0.75]),
        ([[0.0], [1.0]], None, None, [1.0, 1.0]),
    ],
)
def test_by_hand(usage, weight, priority, expected) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_allclose(max_min(usage, weight, priority), expected, rtol=1e-12)


@given(cases(), st.randoms(use_true_random=False))
def test_order_does_not_matter(case, random) -> None:  # type: ignore[no-untyped-def]
    usage, weight, priority = case
    order = list(range(len(usage)))
    random.shuffle(order)
    mixed = max_min(usage[order], weight[order], priority[order])
    np.testing.assert_allclose(mixed, max_min(*case)[order], rtol=1e-9, atol=1e-12)


def test_nothing_and_nonsense() -> None:
    assert max_min(np.zeros((0, 3))).shape == (0,)
    for usage, weight in (([[1.5]], None), ([[-0.1]], None), ([[np.nan]], None), ([[1.0]], [0.0])):
        with pytest.raises(ValueError, match="usage must be"):
            max_min(usage, weight)


def test_very_different_weights_stay_exact() -> None:
    # The heavy one leaves with its share of link 0; the light ones split what remains of link 1.
    usage = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    speed = max_min(usage, [1e6, 1.0, 1e-3, 1e-3])
    first = 1 / (1e6 + 1)
    np.testing.assert_allclose(speed, [1 - first, first, (1 - first) / 2, (1 - first) / 2], rtol=1e-9)


def test_light_users_of_a_link_that_a_heavy_one_left_stay_exact() -> None:
    # The first is held to half by its equal on link 0; link 1 has the other half for two light ones.
    usage = [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    np.testing.assert_allclose(max_min(usage, [1e6, 1e6, 1e-3, 3e-3]), [0.5, 0.5, 0.125, 0.375], rtol=1e-9)
