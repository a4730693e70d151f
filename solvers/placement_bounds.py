"""How few moves a placement can have at least, from each boundary between two layers by itself.

Tokens stay on a device where an expert and one of the next layer share it, and an expert shares its device
with no more of the next layer than the device holds. The most that can stay is thus a matching in which each
expert has so many partners, whose linear program has whole solutions. The bound is taken from the prices
of that program and not from its optimum: it holds whatever the prices are.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from .placement_problem import Floats, PlacementProblem


def levels(problem: PlacementProblem) -> list[tuple[float, int]]:
    """What a move costs, in parts: (price, number of equal groups of devices) of what it leaves.

    A move between devices pays the first part, and one between nodes the second on top of it.
    """
    inside = problem.devices // problem.nodes
    far = float(problem.price.max())
    near = float(problem.price[0, inside - 1]) if inside > 1 else far
    parts = [(near, problem.devices), (far - near, problem.nodes)]
    return [(price, groups) for price, groups in parts if price > 0 and groups > 1]


def partners(problem: PlacementProblem, groups: int) -> int:
    """Most experts of one layer in one of so many equal groups of devices."""
    if problem.least is None:
        return problem.experts // groups
    size = problem.devices // groups
    in_layer = problem.experts - (problem.devices - size) * problem.least
    in_total = problem.layers * problem.experts // groups - (problem.layers - 1) * size * problem.least
    return min(in_layer, in_total)


def boundary_bound(problem: PlacementProblem, until: float, tick: Callable[[], None] = lambda: None) -> float:
    """Cost that no placement is below: every boundary as if it were alone.

    Parameters
    ----------
    problem : PlacementProblem
    until : float
        Instant (of `perf_counter`) from which on boundaries get a rougher bound [s].
    tick : callable
        Called after each boundary.
    """
    bound = 0.0
    for share in problem.share:
        for price, groups in levels(problem):
            most = partners(problem, groups)
            stays = float(share.sum())
            if most < problem.experts:
                stays = min(stays, rough(share, most))
                if perf_counter() < until:
                    stays = min(stays, matched(share, most, until - perf_counter()))
            bound += price * max(0.0, float(share.sum()) - stays)
        tick()
    return bound


def rough(share: Floats, most: int) -> float:
    """Tokens that stay when each expert chooses its partners by itself, in the one layer or in the other."""
    columns = np.partition(share, -most, axis=1)[:, -most:].sum()
    rows = np.partition(share, -most, axis=0)[-most:].sum()
    return float(min(columns, rows))


def matched(share: Floats, most: int, time_limit: float = np.inf) -> float:
    """Tokens that stay when experts of both layers have at most so many partners.

    Parameters
    ----------
    share : ndarray, shape (experts, experts)
    most : int
    time_limit : float
        Seconds after which there is no bound: infinity is returned.
    """
    from scipy.optimize import linear_sum_assignment, linprog
    from scipy.sparse import coo_matrix

    if most == 1:
        return float(share[linear_sum_assignment(share, maximize=True)].sum())
    i, j = np.nonzero(share)
    if not len(i):
        return 0.0
    count, column = len(share), np.arange(len(i))
    unit = float(share.max())  # so that the numbers of the program are near 1
    weight = share[i, j] / unit
    above = coo_matrix((np.ones(2 * len(i)), (np.append(i, count + j), np.append(column, column))), dtype=float)
    answer = linprog(
        -weight,
        A_ub=above.tocsr(),
        b_ub=np.full(above.shape[0], float(most)),
        bounds=(0, 1),
        method="highs",
        options={"time_limit": max(0.01, time_limit)},
    )
    if answer.status != 0:
        return float("inf")
    price = np.zeros(2 * count)
    price[: above.shape[0]] = np.maximum(-answer.ineqlin.marginals, 0.0)
    left = np.maximum(weight - price[i] - price[count + j], 0.0).sum()
    return float(most * price.sum() + left) * unit
