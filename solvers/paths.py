"""Spread flows over paths so that the busiest link is as idle as it can be.

Each flow takes one of the paths offered to it; the *utilisation* of an answer is the largest load over
capacity of any link, and is to be as small as possible. Rules about which paths go together are
expressed by what is offered (a path that enters a host by the port of the same side it left by, none
over a failed link) and by a most that a link may carry (`balanced_limits`: two ports of an adapter).

`allocate` gives whole flows to paths: it starts from a given allocation and from greedy ones (largest
flow first), relieves the busiest link by moving a flow, or a short chain of flows that make room for
each other, and asks a linear and, if need be, an integer program how much better an answer could be.
`allocate_fractions` divides the flows, which is a linear program and exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .path_bounds import integer_program, relaxation, whole_bound
from .path_problem import SAME, balanced_limits, path_problem
from .path_search import Search

__all__ = ["Allocation", "FractionalAllocation", "allocate", "allocate_fractions", "balanced_limits"]


# A gap below this is the tolerance of the solvers that give the bound.
_PROVED = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Which path each flow takes, and how good that is.

    Parameters
    ----------
    choice : ndarray of int, shape (flows,)
        Index of the chosen path among those offered.
    load : ndarray, shape (links,)
        Load of each link.
    utilisation : float
        Largest load over capacity.
    bound : float
        No allocation of whole flows has a lower utilisation.
    gap : float
        ``(utilisation - bound) / utilisation``, 0 when proved the best.
    status : str
        "optimal", "feasible" (a better one may exist), or "over limit" (a link carries more than its limit).
    seconds : float
        Wall-clock time it took.
    """

    choice: NDArray[np.int64]
    load: NDArray[np.float64]
    utilisation: float
    bound: float
    gap: float
    status: str
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class FractionalAllocation:
    """Which part of each flow takes which path; the best there is.

    Parameters
    ----------
    share : ndarray, shape (flows, paths)
        Parts of each flow, 0 to 1; each row adds up to 1.
    load : ndarray, shape (links,)
        Load of each link.
    utilisation : float
        Largest load over capacity.
    seconds : float
        Wall-clock time it took.
    """

    share: NDArray[np.float64]
    load: NDArray[np.float64]
    utilisation: float
    seconds: float


def allocate(
    demand: ArrayLike,
    candidates: ArrayLike | Sequence[Sequence[Sequence[int]]],
    capacity: ArrayLike,
    *,
    offered: ArrayLike | None = None,
    limits: ArrayLike | None = None,
    excluded: Iterable[int] = (),
    start: ArrayLike | None = None,
    restarts: int = 8,
    shakes: int = 60,
    seed: int = 0,
    time_limit: float = 3.0,
) -> Allocation:
    """Give every flow one path; see the module for how.

    Parameters
    ----------
    demand, candidates, capacity, offered, limits, excluded
        As in `path_problem`.
    start : array_like of int, shape (flows,), optional
        An allocation to improve, -1 for flows that have none. The answer is never worse than a start
        that names an offered path for each flow; otherwise the flows without one are placed first.
    restarts : int, default 8
        Greedy allocations to begin from, in orders drawn at random but for the first.
    shakes : int, default 60
        Times a few flows are taken out of the best of these and placed again.
    seed : int, default 0
        Of those draws.
    time_limit : float, default 3
        Seconds for the integer program, which is asked when the rest could not prove the answer the
        best; 0 to leave it out [s].

    Returns
    -------
    Allocation
    """
    begin = perf_counter()
    problem = path_problem(demand, candidates, capacity, offered=offered, limits=limits, excluded=excluded)
    relaxed = relaxation(problem)
    bound = whole_bound(problem, relaxed.utilisation) if relaxed is not None else np.inf
    search = Search(problem, np.random.default_rng(seed))
    if start is not None:
        search.begin_from(np.asarray(start, dtype=np.int64))
    for attempt in range(restarts):
        if search.best_pressure <= bound * (1 + SAME):
            break
        search.begin_from(np.full(len(problem.demand), -1), shuffled=attempt > 0)
    search.shake(shakes, bound * (1 + SAME))
    if search.best_pressure > bound * (1 + SAME) and relaxed is not None and time_limit > 0:
        answer = integer_program(problem, search.best, time_limit)
        bound = max(bound, answer.bound)
        search.offer(answer.choice)
    choice = search.best
    load = problem.loads(choice)[:-1]
    utilisation = float((load / problem.capacity[:-1]).max(initial=0.0))
    over = bool((load > problem.limit[:-1] * (1 + 2 * SAME)).any())
    bound = min(bound, utilisation)
    gap = 0.0 if utilisation == 0 else 1 - bound / utilisation
    gap = gap if gap > _PROVED else 0.0
    status = "over limit" if over else "feasible" if gap else "optimal"
    return Allocation(choice, load, utilisation, bound, gap, status, perf_counter() - begin)


def allocate_fractions(
    demand: ArrayLike,
    candidates: ArrayLike | Sequence[Sequence[Sequence[int]]],
    capacity: ArrayLike,
    *,
    offered: ArrayLike | None = None,
    limits: ArrayLike | None = None,
    excluded: Iterable[int] = (),
) -> FractionalAllocation:
    """Divide every flow over its paths: the linear program, exact.

    Parameters
    ----------
    demand, candidates, capacity, offered, limits, excluded
        As in `path_problem`.

    Raises
    ------
    ValueError
        The limits cannot be kept.
    """
    begin = perf_counter()
    problem = path_problem(demand, candidates, capacity, offered=offered, limits=limits, excluded=excluded)
    answer = relaxation(problem)
    if answer is None:
        raise ValueError("no division of the flows keeps the limits")
    amounts = answer.share[..., None] * problem.times * problem.demand[:, None, None]
    load = np.bincount(problem.links.ravel(), weights=amounts.ravel(), minlength=len(problem.capacity))[:-1].astype(
        float
    )
    return FractionalAllocation(answer.share, load, answer.utilisation, perf_counter() - begin)
