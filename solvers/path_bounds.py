"""How good a path allocation can be: linear relaxation, what whole flows add to it, integer program.

Flows with the same paths are one in the relaxation (their demands add up), and flows with the same
paths and demand are counted instead of named in the integer program. Both lose nothing, and remove the
symmetry that makes such programs slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .path_problem import PathProblem

# Tolerance of the solvers on feasibility, and so of a bound [HiGHS primal/dual feasibility, 1e-7].
_SOLVER = 1e-7


class Relaxed(NamedTuple):
    """Answer of the relaxation: parts of flows by path, shape (flows, paths), and utilisation."""

    share: NDArray[np.float64]
    utilisation: float


class Proved(NamedTuple):
    """Answer of the integer program: a path for each flow, and a bound on the utilisation."""

    choice: NDArray[np.int64]
    bound: float


def relaxation(problem: PathProblem) -> Relaxed | None:
    """Let flows divide: the least utilisation, by linear programming; None when limits cannot be kept."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    count = len(problem.demand)
    share = np.zeros(problem.offered.shape)
    if not count:
        return Relaxed(share, 0.0)
    first, kind = _alike(problem, with_demand=False)
    total = np.bincount(kind, weights=problem.demand)
    # Flows that carry nothing may go anywhere, and a program whose numbers are all near 1 is solved best.
    unit = problem.capacity[:-1].max(initial=0.0)
    scale = float(total.max())
    if scale == 0:
        share[np.arange(count), problem.offered.argmax(axis=1)] = 1.0
        return Relaxed(share, 0.0)
    group, path = np.nonzero(problem.offered[first])
    columns = len(group)
    links, times = problem.links[first][group, path], problem.times[first][group, path]
    held = times > 0
    column = np.broadcast_to(np.arange(columns)[:, None], links.shape)[held]
    link, amount = links[held], times[held]
    amounts = amount * (total[group] / scale)[column]
    room = problem.capacity[:-1] / unit
    used = np.unique(link)
    limited = used[np.isfinite(problem.limit[used])]
    row = np.searchsorted(used, link)
    parts = [(amounts, row, column), (-room[used], np.arange(len(used)), np.full(len(used), columns))]
    if len(limited):
        inside = np.isin(link, limited)
        place = len(used) + np.searchsorted(limited, link[inside])
        parts.append((amounts[inside], place, column[inside]))
    data, rows, cols = (np.concatenate([part[i] for part in parts]) for i in range(3))
    above = coo_matrix((data, (rows, cols)), shape=(len(used) + len(limited), columns + 1)).tocsr()
    equal = coo_matrix((np.ones(columns), (group, np.arange(columns))), shape=(len(first), columns + 1)).tocsr()
    answer = linprog(
        np.append(np.zeros(columns), 1.0),
        A_ub=above,
        b_ub=np.append(np.zeros(len(used)), problem.limit[limited] / scale),
        A_eq=equal,
        b_eq=np.ones(len(first)),
        bounds=(0, None),
        method="highs",
    )
    if answer.x is None:
        return None
    table = np.zeros((len(first), problem.offered.shape[1]))
    table[group, path] = np.clip(answer.x[:-1], 0.0, 1.0)
    table /= table.sum(axis=1, keepdims=True)
    return Relaxed(table[kind], float(answer.x[-1]) * scale / unit)


def whole_bound(problem: PathProblem, relaxed: float) -> float:
    """Raise the relaxation's utilisation to what whole flows can reach.

    Three bounds are tried. A flow alone on its best path. Flows that all have to take one of the same
    links (the uplinks of a leaf, say), by the pigeon-hole rule. And where every demand is a multiple of
    the smallest, loads are too, so the utilisation is such a multiple over one of the capacities.
    """
    demand = problem.demand[problem.demand > 0]
    if not len(demand):
        return 0.0
    alone = (problem.times / problem.capacity[problem.links]).max(axis=2, initial=0.0)
    alone = np.where(problem.offered, alone, np.inf).min(axis=1) * problem.demand
    bound = max(relaxed * (1 - _SOLVER), float(alone.max()), _pigeon_holes(problem))
    quantum = float(demand.min())
    parts = demand / quantum
    if np.abs(parts - parts.round()).max() < 1e-9:
        capacity = np.unique(problem.capacity[:-1])
        steps = np.ceil(bound * capacity / quantum * (1 - _SOLVER) - _SOLVER)
        bound = max(bound, float((steps * quantum / capacity).min()))
    return bound


def _pigeon_holes(problem: PathProblem) -> float:
    """Bound from sets of links of which each of some flows takes one.

    Among the k m + 1 largest of the flows on m links, k + 1 share a link; the k + 1 smallest of them
    are the least that can be.
    """
    # A cut of a flow is what its paths use at the same place; a place that some path leaves empty is none.
    members: dict[frozenset[int], list[float]] = {}
    for i in np.flatnonzero(problem.demand > 0).tolist():
        table = problem.links[i][problem.offered[i]]
        whole = (problem.times[i][problem.offered[i]] > 0).all(axis=0)
        for cut in {frozenset(column.tolist()) for column in table.T[whole]}:
            members.setdefault(cut, []).append(float(problem.demand[i]))
    bound = 0.0
    for cut, sizes in members.items():
        largest = sorted(sizes, reverse=True)
        room, width = max(float(problem.capacity[link]) for link in cut), len(cut)
        for k in range(1, (len(largest) - 1) // width + 1):
            bound = max(bound, sum(largest[k * width - k : k * width + 1]) / room)
    return bound


def integer_program(problem: PathProblem, start: NDArray[np.int64], time_limit: float) -> Proved:
    """Solve for whole flows with HiGHS from a known allocation, within a time limit [s].

    The bound is the solver's own: after a time limit PuLP calls any solution optimal, so neither its
    status nor the incumbent says how far from the best it is.
    """
    import pulp

    first, kind = _alike(problem, with_demand=True)
    count = np.bincount(kind)
    unit = float((problem.loads(start)[:-1] / problem.capacity[:-1]).max())
    model = pulp.LpProblem("paths", pulp.LpMinimize)
    peak = model.add_variable("peak", 0)
    model += peak
    taken: dict[tuple[int, int], Any] = {}
    on_link: dict[int, list[Any]] = {}
    for g, i in enumerate(first.tolist()):
        for p in np.flatnonzero(problem.offered[i]).tolist():
            taken[g, p] = model.add_variable(f"x_{g}_{p}", 0, int(count[g]), cat="Integer")
            for link, times in zip(problem.links[i, p].tolist(), problem.times[i, p].tolist(), strict=True):
                if times:
                    on_link.setdefault(link, []).append((taken[g, p], times * float(problem.demand[i])))
        model += pulp.lpSum(x for (h, _), x in taken.items() if h == g) == int(count[g])
    for link, terms in on_link.items():
        # Divided by the capacity and the best known utilisation, so that the answer lies near 1.
        scale = float(problem.capacity[link]) * unit
        load = pulp.LpAffineExpression([(x, amount / scale) for x, amount in terms])
        model += load <= peak
        if np.isfinite(problem.limit[link]):
            model += load <= float(problem.limit[link]) / scale
    solver = pulp.HiGHS(msg=False, timeLimit=time_limit, threads=1, gapRel=1e-6)
    # PuLP's one call has no place for a start with this solver; its steps do.
    solver.createAndConfigureSolver(model)
    solver.buildSolverModel(model)
    begun = np.zeros(problem.offered.shape, dtype=int)[: len(first)]
    np.add.at(begun, (kind, start), 1)
    names = [(peak.index, 1.0)] + [(x.index, float(begun[key])) for key, x in taken.items()]
    model.solverModel.setSolution(
        len(names), np.array([n for n, _ in names], dtype=np.int32), np.array([v for _, v in names])
    )
    solver.callSolver(model)
    _, sol_status = solver.findSolutionValues(model)
    bound = float(model.solverModel.getInfo().mip_dual_bound) * unit * (1 - _SOLVER)
    if sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return Proved(start, bound if np.isfinite(bound) else 0.0)
    wanted = np.zeros_like(begun)
    for (g, p), x in taken.items():
        wanted[g, p] = round(x.varValue)
    if (wanted.sum(axis=1) != count).any():
        return Proved(start, bound)
    return Proved(_named(start, kind, wanted), bound)


def _alike(problem: PathProblem, with_demand: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First flow of each kind, and the kind of each flow: same paths offered (and same demand)."""
    count = len(problem.demand)
    where = np.broadcast_to(problem.offered[..., None], problem.links.shape)
    links, times = (np.where(where, part, -1).reshape(count, -1) for part in (problem.links, problem.times))
    parts = [links, times, problem.offered, *([problem.demand[:, None]] if with_demand else [])]
    table = np.ascontiguousarray(np.concatenate([part.astype(float) for part in parts], axis=1))
    rows = table.view([("", table.dtype)] * table.shape[1]).ravel()
    _, first, kind = np.unique(rows, return_index=True, return_inverse=True)
    return first, kind.ravel()


def _named(start: NDArray[np.int64], kind: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give paths to flows by the numbers wanted of each, leaving flows where they are if possible."""
    choice = start.copy()
    left = wanted.copy()
    free = []
    for i, (g, p) in enumerate(zip(kind.tolist(), start.tolist(), strict=True)):
        if left[g, p] > 0:
            left[g, p] -= 1
        else:
            free.append(i)
    for i in free:
        choice[i] = int(np.argmax(left[kind[i]] > 0))
        left[kind[i], choice[i]] -= 1
    return choice
