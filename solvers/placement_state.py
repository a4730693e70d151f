"""A placement while it is searched: where experts are, and what it would cost to have each of them elsewhere."""

from __future__ import annotations

import numpy as np

from .placement_problem import TINY, Floats, Ints, PlacementProblem


class State:
    """A placement and its table of costs, kept up to date move by move.

    Parameters
    ----------
    problem : PlacementProblem
    device : ndarray of int, shape (layers, experts)

    Attributes
    ----------
    table : ndarray, shape (layers, experts, devices)
        Cost of the moves into and out of an expert if it were on a device and all others stayed.
    stale_layer : ndarray of bool, shape (layers,)
        Layers whose neighbours changed since they were last placed anew.
    stale_pair : ndarray of bool, shape (devices, devices)
        Pairs of devices of which one holds other experts since an exchange between them was last tried.
    """

    def __init__(self, problem: PlacementProblem, device: Ints) -> None:
        self.problem = problem
        self.device = device.copy()
        self.counts = problem.counts(device)
        self.loads = problem.loads(device)
        on = [np.eye(problem.devices)[row] for row in device]
        mass = np.zeros((problem.layers, problem.experts, problem.devices))
        for boundary, share in enumerate(problem.share):
            mass[boundary] += share @ on[boundary + 1]
            mass[boundary + 1] += share.T @ on[boundary]
        self.table: Floats = mass @ problem.price
        self.stale_layer = np.ones(problem.layers, dtype=bool)
        self.stale_pair = np.ones((problem.devices, problem.devices), dtype=bool)

    def copy(self) -> State:
        """Return a state that changes by itself."""
        twin = object.__new__(State)
        twin.problem = self.problem
        for name in ("device", "counts", "loads", "table", "stale_layer", "stale_pair"):
            setattr(twin, name, getattr(self, name).copy())
        return twin

    def move(self, layer: int, experts: Ints, target: Ints) -> None:
        """Put some experts of a layer on other devices."""
        problem = self.problem
        source = self.device[layer, experts]
        self.device[layer, experts] = target
        for step, devices in ((-1, source), (1, target)):
            np.add.at(self.counts[layer], devices, step)
            if problem.load is not None:
                np.add.at(self.loads[layer], devices, step * problem.load[layer, experts])
        change = problem.price[target] - problem.price[source]
        if layer > 0:
            self.table[layer - 1] += problem.share[layer - 1][:, experts] @ change
            self.stale_layer[layer - 1] = True
        if layer < problem.layers - 1:
            self.table[layer + 1] += problem.share[layer][experts].T @ change
            self.stale_layer[layer + 1] = True
        touched = np.zeros(problem.devices, dtype=bool)
        touched[source] = touched[target] = True
        self.stale_pair[touched] = True
        self.stale_pair[:, touched] = True

    def place_layer(self, layer: int) -> bool:
        """Place one layer as well as can be while the others stay: an assignment of experts to places on devices.

        Each device keeps its number of experts. Returns whether that changed anything.
        """
        from scipy.optimize import linear_sum_assignment

        problem = self.problem
        self.stale_layer[layer] = False
        place = np.repeat(np.arange(problem.devices), self.counts[layer])
        _, column = linear_sum_assignment(self.table[layer][:, place])
        target = place[column]
        moved = np.flatnonzero(target != self.device[layer])
        source = self.device[layer, moved]
        saved = float((self.table[layer, moved, source] - self.table[layer, moved, target[moved]]).sum())
        if problem.load is not None:
            after: Floats = np.bincount(target, weights=problem.load[layer], minlength=problem.devices).astype(float)
            uneven = problem.uneven_load(self.loads[layer]) - problem.uneven_load(after)
            saved += problem.penalty * float(uneven.sum())
        if saved <= TINY:
            return False
        self.move(layer, moved, target[moved])
        return True
