"""Random durations: a mean, a shape, how to draw them and what is expected of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, expm1, gamma, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from ..hardware.errors import InputError

KINDS = ("fixed", "exponential", "lognormal", "weibull")
"""The shapes of a duration. Only the last two take a spread; that of an exponential is always 1."""

# A tail below this part of the sum no longer matters.
_TAIL = 1e-12


@dataclass(frozen=True, slots=True)
class Duration:
    """How long something takes.

    Parameters
    ----------
    mean : float
        0 or more [s].
    kind : str, default "fixed"
        One of `KINDS`.
    spread : float, default 1
        Standard deviation over mean, 0.01 to 3; for "lognormal" and "weibull".
    """

    mean: float
    kind: str = "fixed"
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.mean < np.inf:
            raise InputError(f"duration: mean {self.mean!r} s (legal: 0 or more, finite)")
        if self.kind not in KINDS:
            raise InputError(f"duration: kind {self.kind!r} (legal: {', '.join(KINDS)})")
        if not 0.01 <= self.spread <= 3:
            raise InputError(f"duration: spread {self.spread!r} (legal: 0.01 to 3)")

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return `count` independent values, shape (count,) [s]."""
        if self.kind == "fixed" or not self.mean:
            return np.full(count, self.mean)
        if self.kind == "exponential":
            return random.exponential(self.mean, count)
        if self.kind == "lognormal":
            sigma = sqrt(log1p(self.spread**2))
            return self.mean * random.lognormal(-(sigma**2) / 2, sigma, count)
        shape, scale = _weibull(self.spread)
        return self.mean * scale * random.weibull(shape, count)

    def survival(self, time: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability that it takes at least `time`, elementwise."""
        if self.kind == "fixed" or not self.mean:
            # The same rounding as a floor of the quotient would see.
            return (np.asarray(time) <= self.mean * (1 + 1e-15)).astype(float)
        relative = np.asarray(time, dtype=float) / self.mean
        if self.kind == "exponential":
            return np.exp(-relative)
        if self.kind == "lognormal":
            from scipy.special import ndtr

            sigma = sqrt(log1p(self.spread**2))
            with np.errstate(divide="ignore"):
                return np.asarray(ndtr(-(np.log(relative) + sigma**2 / 2) / sigma))
        shape, scale = _weibull(self.spread)
        return np.exp(-((relative / scale) ** shape))

    def whole_multiples(self, period: float) -> float:
        """Expected number of whole periods it holds, ``E[floor(X / period)]``: the sum of its survival."""
        if self.kind == "exponential":
            # The sum is geometric.
            ratio = period / self.mean
            return exp(-ratio) / -expm1(-ratio)
        total, first = 0.0, 1
        block = max(64, ceil(4 * self.mean / period))
        while True:
            part = float(self.survival(period * np.arange(first, first + block, dtype=float)).sum())
            total += part
            if part <= _TAIL * total or part == 0:
                return total
            first, block = first + block, min(2 * block, 2**20)


@lru_cache(maxsize=64)
def _weibull(spread: float) -> tuple[float, float]:
    """Shape of a Weibull distribution of that spread, and its scale for a mean of 1."""
    from scipy.optimize import brentq

    def excess(shape: float) -> float:
        first, second = gamma(1 + 1 / shape), gamma(1 + 2 / shape)
        return second / first**2 - 1 - spread**2

    shape = float(brentq(excess, 0.15, 200.0))
    return shape, 1 / gamma(1 + 1 / shape)
