"""Parameters of `generate` that make traces like a given one.

Each is found from a moment that chance does not shift, however short the trace: how often two tokens take the same
expert (skew), or the same pair of experts (affinity), and how many tokens follow the best partners, which are chosen
by half of the tokens and counted on the others (partners). Nothing is fitted to crossings or to what placements save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .generate import joint, zipf
from .statistics import pair_counts
from .trace import RoutingTrace

Floats = NDArray[np.float64]

_STRENGTHS = np.linspace(0, 1, 11) ** 1.5  # affinities tabulated, more of them where the moment is flat
_HALVINGS = 40
_FOLDS = 10


def fit(trace: RoutingTrace) -> dict[str, Any]:
    """Fit the model of `generate` to a trace.

    Parameters
    ----------
    trace : RoutingTrace
        Of two tokens or more.

    Returns
    -------
    dict
        `tokens`, `layers`, `experts`, `k`, `affinity` (one number for each boundary), `partners` and `skew`:
        ``generate(**fit(trace), seed=1)`` is a trace like it. Groups are not fitted.

    Raises
    ------
    InputError
        For a trace of one token.
    """
    if trace.tokens < 2:
        raise InputError("trace: 1 token (legal: 2 or more, to see what they have in common)")
    size = trace.count
    counts = np.array([np.bincount(trace.first[:, layer], minlength=size) for layer in range(trace.layers)])
    skew = _root(lambda s: float((zipf(size, s) ** 2).sum()), float(_same(counts[:, None]).mean()), 0.0, 20.0)
    found: dict[str, Any] = {"tokens": trace.tokens, "layers": trace.layers, "experts": size, "k": trace.k}
    if trace.layers == 1 or size == 1:
        return found | {"affinity": [0.0] * (trace.layers - 1), "partners": 1.0, "skew": skew}
    excess, follow = _moments(trace, counts)
    popular = zipf(size, skew)[np.random.default_rng(0).permutation(size)]

    def strength(partners: float) -> tuple[Floats, float]:
        """Affinity of each boundary, and how many tokens would follow the best partners."""
        tables = [joint(popular, a, partners) for a in _STRENGTHS]
        by_chance = float((popular**2).sum())
        same = [float((table**2).sum()) / by_chance**2 - 1 for table in tables]
        each = np.interp(excess, same, _STRENGTHS)
        return each, float(np.interp(each, _STRENGTHS, [np.trace(table) - by_chance for table in tables]).mean())

    partners = _root(lambda p: -strength(p)[1], -float(follow.mean()), 1.0, float(size))
    return found | {"affinity": strength(partners)[0].tolist(), "partners": partners, "skew": skew}


def _moments(trace: RoutingTrace, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """What boundaries have beyond chance, each of shape (layers - 1,).

    Pairs of tokens that take the same two experts, relative to chance; and share of tokens that follow partners.
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
    return excess, follow


def _same(counts: NDArray[Any]) -> Floats:
    """Probability that two tokens fall into the same cell, without bias, shape (first axis,)."""
    flat = counts.reshape(len(counts), -1).astype(float)
    total = flat.sum(axis=1)
    return np.asarray((flat * (flat - 1)).sum(axis=1) / (total * (total - 1)))


def _root(rising: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a rising function has a value, or the end that is nearest."""
    if rising(low) >= value:
        return low
    if rising(high) <= value:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2
