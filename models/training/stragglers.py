"""Ranks that are slower than their like: a step waits for the slowest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from statistics import NormalDist
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Stragglers:
    """Distribution of how much longer a rank computes than the median one.

    Parameters
    ----------
    spread : float
        Standard deviation of a normal or lognormal, mean of an exponential slow-down, as a share.
    distribution : str
        normal | lognormal | exponential.
    factors : Mapping
        Ranks known to be slow, and how much longer each takes (1.1: by a tenth).
    """

    spread: float = 0.0
    distribution: str = "normal"
    factors: Mapping[int, float] | None = None


def slowdown(stragglers: Stragglers, ranks: Any) -> Any:
    """Expected factor of the slowest of some ranks.

    The expected maximum of n draws is near the quantile (n - 0.375) / (n + 0.25) (Blom 1958).

    Parameters
    ----------
    stragglers : Stragglers
    ranks : int or array
    """
    known = max((stragglers.factors or {}).values(), default=1.0)
    if not stragglers.spread:
        return np.maximum(1.0, known) if np.ndim(ranks) else max(1.0, known)
    found = np.vectorize(lambda n: _quantile(stragglers, (n - 0.375) / (n + 0.25)))(ranks)
    return np.maximum(found, known)[()]


def drawn(stragglers: Stragglers, ranks: int, groups: int, seed: int) -> np.ndarray:
    """Factor of the slowest rank of each of `groups` equal groups of neighbouring ranks.

    Parameters
    ----------
    stragglers : Stragglers
    ranks, groups : int
    seed : int

    Returns
    -------
    numpy.ndarray, shape (groups,)
    """
    factors = np.ones(ranks)
    if stragglers.spread:
        uniform = np.random.default_rng(seed).random(ranks)
        factors = np.array([_quantile(stragglers, u) for u in uniform])
    for rank, factor in (stragglers.factors or {}).items():
        factors[rank] = factor
    found: np.ndarray = np.maximum(1.0, factors.reshape(groups, -1).max(axis=1))
    return found


def _quantile(stragglers: Stragglers, share: float) -> float:
    share = min(max(share, 1e-12), 1 - 1e-12)
    if stragglers.distribution == "exponential":
        return 1.0 - stragglers.spread * log(1 - share)
    normal = NormalDist().inv_cdf(share) * stragglers.spread
    return max(1.0, exp(normal) if stragglers.distribution == "lognormal" else 1.0 + normal)
