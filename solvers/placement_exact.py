"""The best placement by a shortest path over whole layers, where a layer can be arranged in few ways.

Eight experts on four devices are 2,520 arrangements of a layer, and 105 up to the names of the devices. What
the layers up to this one cost at least depends on the arrangement without its names, since all layers can be
renamed together; so each step weighs all arrangements against the unnamed ones.
"""

from __future__ import annotations

from math import factorial
from time import perf_counter

import numpy as np

from .placement_problem import Floats, Ints, PlacementProblem

_MOST = 4_000_000  # arrangements times unnamed ones that are weighed against each other: 32 MB


def few(problem: PlacementProblem) -> bool:
    """Whether hard balance leaves so few arrangements of a layer that all can be tried."""
    if problem.least is not None or problem.experts > 12:
        return False
    inside = problem.devices // problem.nodes
    ways = int(factorial(problem.experts) // factorial(problem.experts // problem.devices) ** problem.devices)
    names = int(factorial(problem.nodes) * factorial(inside) ** problem.nodes)
    return ways * (ways // names) <= _MOST


def shortest_path(problem: PlacementProblem, until: float = np.inf) -> Ints | None:
    """Return a placement of least cost, shape (layers, experts).

    None if it is not found by the instant `until` (of `perf_counter`) [s].
    """
    ways = _arrangements(problem.experts, problem.devices)
    names = named(problem, ways)
    plain = np.take_along_axis(names, ways, axis=1)
    unnamed, index = np.unique(plain, axis=0, return_inverse=True)
    index = index.ravel()
    places = np.eye(problem.devices)[unnamed].reshape(len(unnamed), -1)
    value: Floats = np.zeros(len(unnamed))
    prices = problem.price[ways]
    origin = []
    for share in problem.share:
        if perf_counter() >= until:
            return None
        # What each expert of the next layer would cost on each device, for each arrangement of this one.
        cost = (share.T @ prices).reshape(len(ways), -1)
        total = value[index][:, None] + cost @ places.T
        origin.append(total.argmin(axis=0))
        value = total.min(axis=0)
    device = [unnamed[int(value.argmin())]]
    for before in reversed(origin):
        name = named(problem, device[-1][None])[0]
        at = np.flatnonzero((unnamed == name[device[-1]]).all(axis=1))[0]
        device.append(np.argsort(name)[ways[before[at]]])
    return np.array(device[::-1])


def named(problem: PlacementProblem, ways: Ints) -> Ints:
    """Name nodes, and the devices of each, in the order of their lowest experts.

    Parameters
    ----------
    problem : PlacementProblem
    ways : ndarray of int, shape (arrangements, experts)
        Device of each expert of one layer.

    Returns
    -------
    ndarray of int, shape (arrangements, devices)
        New name of each device.
    """
    count, nodes = len(ways), problem.nodes
    lowest = np.full((count, problem.devices), problem.experts)
    np.minimum.at(lowest, (np.arange(count)[:, None], ways), np.arange(problem.experts))
    table = lowest.reshape(count, nodes, -1)
    node = np.argsort(np.argsort(table.min(axis=2), axis=1, kind="stable"), axis=1)
    device = np.argsort(np.argsort(table, axis=2, kind="stable"), axis=2)
    return np.asarray((node[:, :, None] * table.shape[2] + device).reshape(count, -1))


def _arrangements(experts: int, devices: int) -> Ints:
    """All ways to put equal numbers of experts on devices, shape (ways, experts)."""
    found = np.empty((1, 0), dtype=np.int64)
    for _ in range(experts):
        held = np.array([(found == c).sum(axis=1) for c in range(devices)])
        parts = [found[held[c] < experts // devices] for c in range(devices)]
        found = np.concatenate([np.column_stack([p, np.full(len(p), c)]) for c, p in enumerate(parts)])
    return found
