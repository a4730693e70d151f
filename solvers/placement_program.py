"""The integer program of ExFlow in terms of pair counts, for PuLP and HiGHS.

As long as tokens are counted by the pair of experts they use, one variable per pair says whether its experts
are apart, and the size does not depend on the length of the trace. What is added to the published program:
devices are named by their lowest expert in the first layer, which removes the symmetry, and an expert is apart
from all of the next layer but those its device holds, which the relaxation does not know.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from .placement_bounds import levels, partners
from .placement_exact import named
from .placement_problem import Ints, PlacementProblem

_SOLVER = 1e-6  # HiGHS's tolerance on feasibility, and so of the bound
# Rows beyond which HiGHS does not get past the first relaxation in the time people wait.
_MOST_ROWS = 30_000
_WRITING = 1e-4  # seconds to write a row down and hand it over, on a slow core


class Proved(NamedTuple):
    """A placement, and an objective that none is below."""

    device: Ints
    bound: float


def rows(problem: PlacementProblem) -> int:
    """Estimate of the rows of the program."""
    apart = int(np.count_nonzero(problem.share))
    groups = sum(count for _, count in levels(problem))
    return groups * (apart + problem.experts) + 4 * problem.layers * problem.devices


def fits(problem: PlacementProblem, seconds: float) -> bool:
    """Whether the program is small enough to be of use within some seconds."""
    size = rows(problem)
    return size <= _MOST_ROWS and 3 * size * _WRITING < seconds


def integer_program(problem: PlacementProblem, start: Ints, time_limit: float) -> Proved:
    """Look for a placement better than `start` within a time limit [s].

    The bound is the solver's own: after a time limit PuLP calls any solution optimal.
    """
    import pulp

    begin = perf_counter()
    layers, experts, devices = problem.layers, problem.experts, problem.devices
    start = named(problem, start[:1])[0][start]
    scale = problem.objective(start) or 1.0  # so that the objective sought is near 1
    model = pulp.LpProblem("placement", pulp.LpMinimize)
    x = np.array(
        [
            [model.add_variable(f"x_{layer}_{e}_{c}", 0, 1, cat="Binary") for c in range(devices)]
            for layer, e in np.ndindex(layers, experts)
        ],
        dtype=object,
    ).reshape(layers, experts, devices)
    # Numbered only when the solver has the model, so the start is kept by variable.
    values: list[tuple[Any, float]] = list(zip(x.ravel(), np.eye(devices)[start].ravel().tolist(), strict=True))
    objective: list[tuple[Any, float]] = []
    for layer, e in np.ndindex(layers, experts):
        model += _sum(x[layer, e]) == 1
    inside = devices // problem.nodes
    for price, groups in levels(problem):
        size = devices // groups
        most = partners(problem, groups)
        for layer, share in enumerate(problem.share):
            apart: dict[tuple[int, int], Any] = {}
            for i, j in np.argwhere(share > 0).tolist():
                y = apart[i, j] = model.add_variable(f"y_{groups}_{layer}_{i}_{j}", 0, 1)
                values.append((y, float(start[layer, i] // size != start[layer + 1, j] // size)))
                objective.append((y, price * float(share[i, j]) / scale))
                for g in range(groups):
                    some = slice(g * size, (g + 1) * size)
                    model += _sum(x[layer, i, some], x[layer + 1, j, some], [y]) >= 0
            for axis in (0, 1):
                for e in range(experts):
                    mine = [y for key, y in apart.items() if key[axis] == e]
                    if len(mine) > most:
                        model += _sum(mine) >= len(mine) - most
    objective += _balance(problem, model, x, start, values, scale)
    _name_devices(model, x[0], inside)
    model += pulp.LpAffineExpression(objective)
    # What it took to write the program down is taken off twice, for the solver reads it.
    left = max(0.01, time_limit - 2 * (perf_counter() - begin))
    solver = pulp.HiGHS(msg=False, timeLimit=left, threads=1, gapRel=1e-6)
    # PuLP's one call has no place for a start with this solver; its steps do.
    solver.createAndConfigureSolver(model)
    solver.buildSolverModel(model)
    numbers = np.array([v.index for v, _ in values], dtype=np.int32)
    model.solverModel.setSolution(len(values), numbers, np.array([value for _, value in values]))
    solver.callSolver(model)
    _, found = solver.findSolutionValues(model)
    dual = float(model.solverModel.getInfo().mip_dual_bound)
    bound = dual * scale * (1 - _SOLVER) if np.isfinite(dual) else 0.0
    if found in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        part = np.array([v.varValue or 0.0 for v in x.ravel()]).reshape(x.shape)
        device = part.argmax(axis=2)
        if _legal(problem, device) and problem.objective(device) < problem.objective(start):
            return Proved(device, bound)
    return Proved(start, bound)


def _sum(plus: Any, minus: Any = (), also: Any = ()) -> Any:
    """Sum of variables less others; `minus` and `also` as in ``also >= plus - minus``."""
    import pulp

    sign = -1 if len(also) else 1
    return pulp.LpAffineExpression([(v, sign) for v in plus] + [(v, 1) for v in minus] + [(v, 1) for v in also])


def _balance(
    problem: PlacementProblem, model: Any, x: Any, start: Ints, values: list[tuple[Any, float]], scale: float
) -> list[tuple[Any, float]]:
    """Write down how many experts devices have; returns what deviation adds to the objective."""
    import pulp

    layers, experts, devices = x.shape
    if problem.least is None:
        for layer, c in np.ndindex(layers, devices):
            model += _sum(x[layer, :, c]) == experts // devices
        return []
    for c in range(devices):
        model += _sum(x[:, :, c].ravel()) == layers * experts // devices
    count, load = problem.counts(start), problem.loads(start)
    terms = []
    for layer, c in np.ndindex(layers, devices):
        if problem.least:
            model += _sum(x[layer, :, c]) >= problem.least
        # In units of a device's equal part, each counts as much as the mean of a layer.
        measures = [(np.full(experts, devices / experts), count[layer, c] * devices / experts)]
        if problem.load is not None:
            measures.append((problem.load[layer] * devices, load[layer, c] * devices))
        for k, (weights, begun) in enumerate(measures):
            far = model.add_variable(f"d_{k}_{layer}_{c}", 0)
            values.append((far, abs(float(begun) - 1)))
            held = pulp.LpAffineExpression(list(zip(x[layer, :, c], weights.tolist(), strict=True)))
            model += far >= held - 1
            model += far >= 1 - held
            terms.append((far, problem.penalty / layers / scale))
    return terms


def _name_devices(model: Any, x: Any, inside: int) -> None:
    """Name nodes, and the devices of each, in the order of their lowest experts in the first layer."""
    experts, devices = x.shape
    for e in range(experts):
        for c in range(1, devices):
            if c % inside:
                model += _sum(x[e, c : c + 1]) <= _sum(x[:e, c - 1])
            else:
                model += _sum(x[e, c : c + inside]) <= _sum(x[:e, c - inside : c].ravel())


def _legal(problem: PlacementProblem, device: Ints) -> bool:
    counts = problem.counts(device)
    if problem.least is None:
        return bool((counts == problem.experts // problem.devices).all())
    equal = problem.layers * problem.experts // problem.devices
    return bool((counts >= problem.least).all() and (counts.sum(axis=0) == equal).all())
