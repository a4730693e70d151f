"""Parameters of `generate` that make traces like a given one.

Each is found from a moment that chance hardly shifts, however short the trace:

- skew: how often two tokens take the same expert,
- affinity of each boundary: how often they take the same two experts,
- partners: how many tokens follow the best partners, which are chosen without those that are counted,
- persistence: how often they take the same expert two layers on, if all that is known of a token is its expert.

Where which popularity stands on the ring is not known, and what the model says is the mean over a few such orders.

Nothing is fitted to crossings or to what placements save. Where tokens are few for the pairs of experts (fewer than
one for each), partners are chosen wrongly now and then and `partners` comes out too large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .generate import joint, kernel, zipf
from .statistics import pair_counts
from .trace import RoutingTrace

Floats = NDArray[np.float64]

_STRENGTHS = np.linspace(0, 1, 6)  # affinities tabulated
_HALVINGS = 11
_FOLDS = 10
_ORDERS = (2, 12, 512)  # least, most, and experts in all
_ROUNDS = 3  # partners and persistence hardly depend on each other


def fit(trace: RoutingTrace) -> dict[str, Any]:
    """Fit the model of `generate` to a trace.

    Parameters
    ----------
    trace : RoutingTrace
        Of two tokens or more.

    Returns
    -------
    dict
        `tokens`, `layers`, `experts`, `k`, `affinity` (one number for each boundary), `partners`, `persistence` and
        `skew`: ``generate(**fit(trace), seed=1)`` is a trace like it. Groups are not fitted.

    Raises
    ------
    InputError
        For a trace of one token.
    """
    if trace.tokens < 2:
        raise InputError("trace: 1 token (legal: 2 or more, to see what they have in common)")
    size = trace.count
    counts = np.array([np.bincount(trace.first[:, layer], minlength=size) for layer in range(trace.layers)])
    skew = _root(lambda s: float((zipf(size, s) ** 2).sum()), float(_same(counts[:, None]).mean()), 0.0, 20.0, 40)
    found: dict[str, Any] = {"tokens": trace.tokens, "layers": trace.layers, "experts": size, "k": trace.k}
    if trace.layers == 1 or size == 1:
        return found | {"affinity": [0.0] * (trace.layers - 1), "partners": 1.0, "persistence": 1.0, "skew": skew}
    law = _Law(zipf(size, skew), *_moments(trace, counts))
    partners, persistence = 1.0, 1.0
    for _ in range(_ROUNDS):
        partners = law.partners(persistence)
        persistence = law.persistence(partners)
    affinity = law.affinity(partners, persistence)[0].tolist()
    return found | {"affinity": affinity, "partners": partners, "persistence": persistence, "skew": skew}


@dataclass(frozen=True)
class _Law:
    """What the model says of the moments that the trace has.

    Parameters
    ----------
    popular : ndarray, shape (experts,)
        Shares of experts.
    excess, follow, again : ndarray
        As of `_moments`.
    """

    popular: Floats
    excess: Floats
    follow: Floats
    again: Floats

    def partners(self, persistence: float) -> float:
        """Effective number of partners."""
        most = float(np.log(len(self.popular)))
        target = -float(self.follow.mean())
        return float(np.exp(_root(lambda log: -self.affinity(float(np.exp(log)), persistence)[1], target, 0.0, most)))

    def persistence(self, partners: float) -> float:
        """Share of what goes near that goes to the same places at every boundary; 1 where there is one boundary."""
        if not len(self.again):
            return 1.0
        return _root(lambda c: self._two_layers_on(partners, c), float(self.again.mean()), 0.0, 1.0)

    def affinity(self, partners: float, persistence: float) -> tuple[Floats, float]:
        """Affinity of each boundary, and the mean share of tokens that would follow partners, beyond chance."""
        same, follow = np.zeros(len(_STRENGTHS)), np.zeros(len(_STRENGTHS))
        orders = self._orders()
        for popular, generator in orders:
            near = kernel(len(popular), partners, persistence, generator)
            tables = [joint(popular, a, near) for a in _STRENGTHS]
            same += [_beyond(table, table) / len(orders) for table in tables]
            follow += [float(np.trace(table) - popular @ popular) / len(orders) for table in tables]
        # The moment goes with the square of affinity.
        each = np.interp(np.sqrt(self.excess), np.sqrt(np.maximum(same, 0)), _STRENGTHS)
        return each, float(np.interp(each, _STRENGTHS, follow).mean())

    def _two_layers_on(self, partners: float, persistence: float) -> float:
        """Mean of what `again` has; each order has a place between layers of its own."""
        strength, _ = self.affinity(partners, persistence)
        orders, found = self._orders(), []
        where = np.linspace(0, len(strength) - 2, len(orders)).round().astype(int)
        for place, (popular, generator) in zip(where.tolist(), orders, strict=True):
            two = strength[place : place + 2].tolist()
            steps = [joint(popular, a, kernel(len(popular), partners, persistence, generator)) for a in two]
            step = _then(steps[0], steps[1])
            found.append(_beyond(step, step))
        return float(np.mean(found))

    def _orders(self) -> list[tuple[Floats, np.random.Generator]]:
        """Popularity along the ring, and what draws places near: the same at every call; fewer where rings are long."""
        least, most, experts = _ORDERS
        number = max(least, min(most, experts // len(self.popular)))
        generators = [np.random.default_rng(i) for i in range(number)]
        return [(generator.permutation(self.popular), generator) for generator in generators]


def _moments(trace: RoutingTrace, counts: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """What boundaries have beyond chance.

    How much more often two tokens take the same two experts, and share of tokens that follow partners, both of shape
    (layers - 1,); and how much more often two tokens that take the same expert take the same one two layers on, by
    the tables of both boundaries alone, shape (layers - 2,).
    """
    from scipy.optimize import linear_sum_assignment

    pairs = pair_counts(trace)
    same = _same(counts[:, None])
    excess = np.maximum(_same(pairs) / np.maximum(same[:-1] * same[1:], np.finfo(float).tiny) - 1, 0)
    follow = np.zeros(len(pairs))
    for fold in range(min(_FOLDS, trace.tokens)):
        some = pair_counts(RoutingTrace(trace.experts[fold::_FOLDS], trace.count))
        for i, (of, by) in enumerate(zip(some, pairs - some, strict=True)):
            rows, columns = linear_sum_assignment(by - np.outer(by.sum(1), by.sum(0)) / by.sum(), maximize=True)
            chance = of.sum(axis=1) @ of.sum(axis=0)[columns] / of.sum()
            follow[i] += (of[rows, columns].sum() - chance) / trace.tokens
    # Tables of unlike tokens have no chance in common, so that it does not count as likeness.
    halves = [pair_counts(RoutingTrace(trace.experts[half::2], trace.count)) for half in (0, 1)]
    onward = [[_then(one, other) for one, other in pairwise(half)] for half in halves]
    again = np.array([_beyond(one, other) for one, other in zip(*onward, strict=True)])
    return excess, follow, again


def _then(one: Floats, other: Floats) -> Floats:
    """Pairs of experts over two boundaries, of pairs over each."""
    rows = np.maximum(other.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return np.asarray(one @ (other / rows))


def _beyond(one: Floats, other: Floats) -> float:
    """How much more often than by chance two tokens take the same pair, each by a table of its own."""
    chance = (one.sum(axis=1) @ other.sum(axis=1)) * (one.sum(axis=0) @ other.sum(axis=0))
    return float((one * other).sum() * one.sum() * other.sum() / max(chance, np.finfo(float).tiny) - 1)


def _same(counts: NDArray[Any]) -> Floats:
    """Probability that two tokens fall into the same cell, without bias, shape (first axis,)."""
    flat = counts.reshape(len(counts), -1).astype(float)
    total = flat.sum(axis=1)
    return np.asarray((flat * (flat - 1)).sum(axis=1) / (total * (total - 1)))


def _root(rising: Callable[[float], float], value: float, low: float, high: float, halvings: int = _HALVINGS) -> float:
    """Where a rising function has a value, or the end that is nearest."""
    if rising(low) >= value:
        return low
    if rising(high) <= value:
        return high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2
