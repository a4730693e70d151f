"""Local search for a path allocation: greedy placement, then relief of the busiest link."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .path_problem import SAME, PathProblem

# How many moves may make room for each other, and how many first, second, ... moves are tried.
_BREADTH = (12, 6, 3)
# How many flows a shake takes out, from and below; and how much worse than the last its result may be.
_TAKEN_OUT = (3, 11)
_LET_PASS = 1.003


class Search:
    """Local search on one problem, keeping the best allocation met."""

    def __init__(self, problem: PathProblem, random: np.random.Generator) -> None:
        self.problem = problem
        self.random = random
        self.best = np.zeros(len(problem.demand), dtype=np.int64)
        self.best_pressure = np.inf

    def offer(self, choice: NDArray[np.int64]) -> None:
        """Keep an allocation if it is the best so far."""
        pressure = float(self.problem.pressure(self.problem.loads(choice), slice(None)).max(initial=0.0))
        if pressure < self.best_pressure:
            self.best, self.best_pressure = choice.copy(), pressure

    def begin_from(self, start: NDArray[np.int64], shuffled: bool = False) -> None:
        """Place the flows that have no path greedily, improve, and keep the best."""
        problem = self.problem
        own = np.arange(len(start))
        known = (start >= 0) & (start < problem.offered.shape[1])
        known[known] = problem.offered[own[known], start[known]]
        if known.all():
            self.offer(start)
        self.choice = np.where(known, start, 0)
        self.load = problem.loads(self.choice)
        for i in np.flatnonzero(~known):
            np.add.at(self.load, problem.links[i, 0], -problem.times[i, 0] * problem.demand[i])
        missing = np.flatnonzero(~known)
        order = self.random.permutation(len(missing)) if shuffled else np.arange(len(missing))
        for i in missing[order][np.argsort(-problem.demand[missing[order]], kind="stable")]:
            after = self.load[problem.links[i]] + problem.times[i] * problem.demand[i]
            pressure = np.where(problem.times[i] > 0, problem.pressure(after, problem.links[i]), 0.0)
            peak = np.where(problem.offered[i], pressure.max(axis=1, initial=0.0), np.inf)
            level = np.flatnonzero(peak <= peak.min() * (1 + SAME))
            self.choice[i] = level[np.argmin(pressure[level].sum(axis=1))]
            np.add.at(self.load, problem.links[i, self.choice[i]], problem.times[i, self.choice[i]] * problem.demand[i])
        self.improve()
        self.offer(self.choice)

    def shake(self, rounds: int, enough: float) -> None:
        """Take some flows out, place them afresh and improve, again and again until it is enough."""
        count = len(self.best)
        current, pressure = self.best, self.best_pressure
        for _ in range(rounds if count else 0):
            if self.best_pressure <= enough:
                return
            start = current.copy()
            start[self.random.integers(0, count, size=min(count, int(self.random.integers(*_TAKEN_OUT))))] = -1
            self.begin_from(start, shuffled=True)
            reached = float(self.problem.pressure(self.load, slice(None)).max())
            # Slightly worse is let pass, or the walk would not leave a valley.
            if reached <= pressure * _LET_PASS:
                current, pressure = self.choice.copy(), reached

    def improve(self) -> None:
        """Relieve the busiest link until that fails."""
        self.load = self.problem.loads(self.choice)
        while len(self.choice):
            pressure = self.problem.pressure(self.load, slice(None))
            busiest = int(pressure.argmax())
            if pressure[busiest] <= 0 or not self._relieve(busiest, float(pressure[busiest]), 0, ()):
                return

    def _relieve(self, link: int, target: float, depth: int, moved: tuple[int, ...]) -> bool:
        """Bring a link below the target by moves that bring no other to it; undo what does not."""
        problem = self.problem
        own = np.arange(len(self.choice))
        current = problem.links[own, self.choice]
        movable = (current == link).any(axis=1) & (problem.demand > 0)
        movable[list(moved)] = False
        flows = np.flatnonzero(movable)
        if not len(flows):
            return False
        size = problem.demand[flows, None, None]
        links = problem.links[flows]
        # What is left of a flow's own load on the links it would use: the paths may overlap.
        overlap = links[..., None] == current[flows][:, None, None, :]
        before = (overlap * problem.times[flows, self.choice[flows]][:, None, None, :]).sum(axis=-1)
        after = self.load[links] + (problem.times[flows] - before) * size
        pressure = np.where(problem.times[flows] > 0, problem.pressure(after, links), 0.0)
        peak = np.where(problem.offered[flows], pressure.max(axis=2, initial=0.0), np.inf)
        peak[(links == link).any(axis=2)] = np.inf
        order = np.argsort(peak, axis=None, kind="stable")[: _BREADTH[depth]]
        for flow, path in zip(*np.unravel_index(order, peak.shape), strict=True):
            if not np.isfinite(peak[flow, path]):
                return False
            i = int(flows[flow])
            choice, load = self.choice.copy(), self.load.copy()
            self._move(i, int(path))
            if all(
                self._below(other, target)
                or (depth + 1 < len(_BREADTH) and self._relieve(other, target, depth + 1, (*moved, i)))
                for other in (*links[flow, path].tolist(), link)
            ):
                return True
            self.choice, self.load = choice, load
        return False

    def _below(self, link: int, target: float) -> bool:
        one = np.array([link])
        return bool(self.problem.pressure(self.load[one], one)[0] < target * (1 - SAME))

    def _move(self, flow: int, path: int) -> None:
        size, old = self.problem.demand[flow], self.choice[flow]
        np.add.at(self.load, self.problem.links[flow, old], -self.problem.times[flow, old] * size)
        np.add.at(self.load, self.problem.links[flow, path], self.problem.times[flow, path] * size)
        self.choice[flow] = path
