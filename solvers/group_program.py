"""The planner of one micro-batch as an integer program, for PuLP and HiGHS.

Groups of one degree are alike, so they are numbered by what they hold: a later one is used only when
the one before is, and never works longer. Sequences are counted by bucket instead of named.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .group_planner import Groups, Task, measured

_SOLVER = 1e-6  # HiGHS's tolerance on feasibility, and so of the bound


class Proved(NamedTuple):
    """Groups, none better than `bound` [s] for the rounded lengths, and whether that proves them the best.

    None are there when there can be none, which is proved too, or when time was too short to find any.
    """

    groups: Groups | None
    bound: float
    optimal: bool


def program(work: Task, bucket: NDArray[np.int64], start: Groups | None, least: float, time_limit: float) -> Proved:
    """Look for groups faster than `start` within a time limit.

    Parameters
    ----------
    work : Task
        With lengths rounded up to those of their bucket.
    bucket : ndarray of int, shape (sequences,)
    start : Groups, optional
        For the same lengths, if any are known.
    least : float
        Makespan that nothing is below, with the fixed part [s].
    time_limit : float
        Seconds.
    """
    import pulp

    begin = perf_counter()
    if start is not None and start.time <= least * (1 + _SOLVER):
        return Proved(start, least, True)
    _, first, number = np.unique(bucket, return_index=True, return_counts=True)
    if start is not None:
        scale = start.time - work.fixed  # so that the makespan sought is near 1
    else:  # whatever the groups, none works longer than this
        scale = float(np.where(np.isfinite(work.seconds), work.seconds, 0.0).max(axis=0).sum())
    seconds = work.seconds[:, first] / scale
    fast = seconds <= 1 + 1e-12
    model = pulp.LpProblem("groups", pulp.LpMinimize)
    span = model.add_variable("span", max(0.0, (least - work.fixed) / scale * (1 - _SOLVER)), 1.0)
    model += span
    used: dict[tuple[int, int], Any] = {}
    taken: dict[tuple[int, int, int], Any] = {}
    for d, degree in enumerate(work.degrees.tolist()):
        fitting = np.flatnonzero(fast[d]).tolist()
        before: Any = None
        for j in range(min(work.ranks // degree, int(number[fitting].sum()))):
            used[d, j] = model.add_variable(f"m_{d}_{j}", 0, 1, cat="Binary")
            amounts = []
            for q in fitting:
                most = min(int(number[q]), int(1 / seconds[d, q] + 1e-9), int(work.holds[d] // work.lengths[first[q]]))
                x = taken[d, j, q] = model.add_variable(f"a_{d}_{j}_{q}", 0, most, cat="Integer")
                amounts.append((x, q))
                if most == 1:
                    model += x <= used[d, j]
            load = pulp.LpAffineExpression([(x, float(seconds[d, q])) for x, q in amounts])
            model += load <= span
            model += load <= used[d, j]
            tokens = [(x, float(work.lengths[first[q]] / work.holds[d])) for x, q in amounts]
            model += pulp.LpAffineExpression(tokens) <= used[d, j]
            if before is not None:
                model += used[d, j] <= used[d, j - 1]
                model += load <= before
            before = load
    for q, count in enumerate(number.tolist()):
        model += pulp.lpSum(x for (_, _, p), x in taken.items() if p == q) == count
    model += pulp.lpSum(int(work.degrees[d]) * m for (d, _), m in used.items()) <= work.ranks
    spent = [(x, float(work.degrees[d] * seconds[d, q] / work.ranks)) for (d, _, q), x in taken.items()]
    model += pulp.LpAffineExpression(spent) <= span
    # What it took to write the program down is taken off twice, for the solver reads it.
    left = max(0.01, time_limit - 2 * (perf_counter() - begin))
    solver = pulp.HiGHS(msg=False, timeLimit=left, threads=1, gapRel=1e-6)
    # PuLP's one call has no place for a start with this solver; its steps do.
    solver.createAndConfigureSolver(model)
    solver.buildSolverModel(model)
    if start is not None:
        begun = _numbered(work, start, bucket, len(first))
        values = [(span.index, 1.0)]
        values += [(m.index, float((d, j) in begun)) for (d, j), m in used.items()]
        values += [(x.index, float(begun[d, j][q]) if (d, j) in begun else 0.0) for (d, j, q), x in taken.items()]
        model.solverModel.setSolution(
            len(values), np.array([n for n, _ in values], dtype=np.int32), np.array([v for _, v in values])
        )
    solver.callSolver(model)
    _, found = solver.findSolutionValues(model)
    dual = float(model.solverModel.getInfo().mip_dual_bound)
    bound = max(least, work.fixed + dual * scale * (1 - _SOLVER)) if np.isfinite(dual) else least
    best = start
    if found in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        table = {key: np.zeros(len(first), dtype=int) for key in used}
        for (d, j, q), x in taken.items():
            table[d, j][q] = round(x.varValue)
        groups = _named(work, bucket, table)
        if groups is not None and (best is None or groups.time < best.time):
            best = groups
    if best is None:
        return Proved(None, bound, found == pulp.LpSolutionInfeasible)
    bound = min(bound, best.time)
    return Proved(best, bound, best.time <= bound * (1 + 1e-5))


def _numbered(
    work: Task, start: Groups, bucket: NDArray[np.int64], buckets: int
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Sequences by bucket of each group, the groups of a degree numbered from the one that works longest."""
    row = {int(d): x for x, d in enumerate(work.degrees)}
    busy = [
        (float(work.seconds[row[d], list(some)].sum()), row[d], some)
        for d, some in zip(start.degrees, start.members, strict=True)
    ]
    found: dict[tuple[int, int], NDArray[np.int64]] = {}
    for _, d, some in sorted(busy, key=lambda group: -group[0]):
        j = sum(key[0] == d for key in found)
        found[d, j] = np.bincount(bucket[list(some)], minlength=buckets)
    return found


def _named(work: Task, bucket: NDArray[np.int64], table: dict[tuple[int, int], NDArray[np.int64]]) -> Groups | None:
    """Groups of sequences from numbers of each bucket; None unless every sequence is in one."""
    waiting = [np.flatnonzero(bucket == q).tolist() for q in range(len(next(iter(table.values()))))]
    if any(sum(int(row[q]) for row in table.values()) != len(some) for q, some in enumerate(waiting)):
        return None
    members = [[waiting[q].pop() for q, n in enumerate(row) for _ in range(n)] for row in table.values()]
    return measured(work, [int(work.degrees[d]) for d, _ in table], members)
