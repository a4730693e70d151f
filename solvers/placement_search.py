"""Local search for a placement, from several starts, with kicks out of the best one's valley."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from . import placement_starts as starts
from .placement_problem import TINY, Ints, PlacementProblem
from .placement_state import State
from .placement_threads import exchange


class Search:
    """Local search on one problem, keeping the best placement met.

    Parameters
    ----------
    problem : PlacementProblem
    random : numpy.random.Generator
    until : float
        Instant (of `perf_counter`) to stop at [s].

    Attributes
    ----------
    best : ndarray of int, shape (layers, experts)
    best_value : float
        Its objective.
    cut : bool
        Whether time cut anything short.
    """

    def __init__(self, problem: PlacementProblem, random: np.random.Generator, until: float = np.inf) -> None:
        self.problem = problem
        self.random = random
        self.until = self._pause = until
        self.cut = False
        self.best: Ints = np.empty((0, 0), dtype=np.int64)
        self.best_value = np.inf

    @property
    def over(self) -> bool:
        """Whether time is up, for now or for good."""
        late = perf_counter() >= self._pause
        self.cut = self.cut or late
        return late

    def offer(self, device: Ints) -> float:
        """Keep a placement if it is the best so far; returns its objective."""
        value = self.problem.objective(device)
        if value < self.best_value:
            self.best, self.best_value = device.copy(), value
        return value

    def run(self, restarts: int, kicks: int, enough: float, tick: Callable[[], None] = lambda: None) -> None:
        """Search from so many starts, then with so many kicks, until the objective is good enough or time is up."""
        for attempt in range(restarts):
            if self.best_value <= enough:
                return
            # Each start gets an equal part of the time left, and so does the best of them afterwards.
            now = perf_counter()
            self._pause = now + (self.until - now) / (restarts - attempt + 1)
            if self.over:
                break
            self.begin_from(self._start(attempt))
            tick()
        self._pause = self.until
        if self.over or self.best_value <= enough:
            return
        current = State(self.problem, self.best)
        self._improve(current)
        value = self.offer(current.device)
        for _ in range(kicks):
            if self.over or self.best_value <= enough:
                break
            tried = current.copy()
            self._kick(tried)
            self._improve(tried)
            reached = self.offer(tried.device)
            if reached <= value + TINY:
                current, value = tried, reached
            tick()

    def begin_from(self, device: Ints) -> None:
        """Improve a placement and keep it if it is the best."""
        self.offer(device)
        if self.problem.least is None:
            device = starts.relabelled(self.problem, device)
        while not self.over:
            state = State(self.problem, device)
            self._improve(state)
            self.offer(state.device)
            device = state.device
            if self.problem.least is not None:
                return
            device = starts.relabelled(self.problem, device)
            if (device == state.device).all():
                return

    def _start(self, attempt: int) -> Ints:
        """Threads first, which are best as a rule; then two stages, rank order, chains, and threads with noise."""
        problem = self.problem
        even = problem.experts % problem.devices == 0
        if not even or attempt % 4 == 3:
            return starts.chain(problem, self.random)
        if attempt % 4 == 1 and 1 < problem.nodes < problem.devices:
            return self._two_stages()
        if attempt == 2:
            return starts.rank_order(problem.layers, problem.experts, problem.devices)
        return starts.threads(problem, self.random, noisy=attempt > 0)

    def _two_stages(self) -> Ints:
        """Experts to nodes first, and then to the devices of each node."""
        problem = self.problem
        node = self._part(problem.share, problem.nodes)
        inside = problem.devices // problem.nodes
        device = node * inside
        for n in range(problem.nodes):
            some = np.array([np.flatnonzero(row == n) for row in node])
            held = np.array([w[np.ix_(a, b)] for w, a, b in zip(problem.share, some, some[1:], strict=False)])
            layer = np.arange(problem.layers)[:, None]
            device[layer, some] += self._part(held, inside)
        return device

    def _part(self, share: np.ndarray[tuple[int, ...], np.dtype[np.float64]], devices: int) -> Ints:
        now = perf_counter()  # half the time for the nodes, half of the rest for the devices of the first, ...
        search = Search(PlacementProblem(share, 1.0 - np.eye(devices)), self.random, now + (self._pause - now) / 2)
        search.begin_from(starts.threads(search.problem, self.random))
        self.cut = self.cut or search.cut
        return search.best

    def _improve(self, state: State) -> None:
        """Place layers anew and exchange experts of two devices until neither helps."""
        while not self.over:
            self._sweep(state)
            if self.over or not exchange(state, self.random, lambda: self.over):
                return

    def _sweep(self, state: State) -> None:
        """Place layers anew, up and down through them, while their neighbours change."""
        layers = range(self.problem.layers)
        while state.stale_layer.any():
            for layer in (*layers, *reversed(layers)):
                if self.over:
                    return
                if state.stale_layer[layer]:
                    state.place_layer(layer)

    def _kick(self, state: State) -> None:
        """Mix the experts of two or three devices in a run of layers."""
        problem, random = self.problem, self.random
        if problem.devices < 2:
            return
        first = int(random.integers(problem.layers))
        last = min(problem.layers, first + 1 + int(random.integers(max(1, problem.layers // 2))))
        chosen = random.choice(problem.devices, min(problem.devices, int(random.integers(2, 4))), replace=False)
        for layer in range(first, last):
            some = np.flatnonzero(np.isin(state.device[layer], chosen))
            state.move(layer, some, random.permutation(state.device[layer, some]))
            state.stale_layer[layer] = True
