"""Ring collectives in closed form.

Sizes follow nccl-tests: `size` is the full buffer, also for all-gather and reduce-scatter, so a
rank holds or ends with ``size / n``. A ring moves it in equal chunks of ``size / n``; sizes that n
does not divide are spread evenly. All-reduce takes ``2 (n - 1)`` steps, the other two ``n - 1``
(R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005, section 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_ROUNDS = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}


def _plain(value: np.ndarray) -> Any:
    return value.item() if np.ndim(value) == 0 else value


def _time(
    kind: str,
    n: ArrayLike,
    size: ArrayLike,
    bandwidth: ArrayLike,
    latency: ArrayLike,
    base: ArrayLike,
) -> Any:
    n = np.asarray(n, dtype=float)
    steps = _ROUNDS[kind] * (n - 1)
    chunk = np.asarray(size, dtype=float) / n
    time = np.asarray(base, dtype=float) + steps * (
        np.asarray(latency, dtype=float) + chunk / np.asarray(bandwidth, dtype=float)
    )
    return _plain(np.where(n > 1, time, 0.0))


def all_reduce_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring all-reduce, ``base + 2 (n - 1) (latency + size / n / bandwidth)``.

    Parameters
    ----------
    n : array_like of int
        Ranks; 1 takes no time.
    size : array_like of float
        Buffer of each rank [bytes].
    bandwidth : array_like of float
        Per direction and rank [bytes/s].
    latency : array_like of float
        Of one step [s].
    base : array_like of float, default 0
        Of the whole call [s].

    Returns
    -------
    float or numpy.ndarray
        Seconds, broadcast over all arguments [s].
    """
    return _time("all_reduce", n, size, bandwidth, latency, base)


def reduce_scatter_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring reduce-scatter, ``base + (n - 1) (latency + size / n / bandwidth)`` [s].

    Parameters and result as in `all_reduce_time`; `size` is the input of each rank [bytes].
    """
    return _time("reduce_scatter", n, size, bandwidth, latency, base)


def all_gather_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring all-gather, ``base + (n - 1) (latency + size / n / bandwidth)`` [s].

    Parameters and result as in `all_reduce_time`; `size` is the output of each rank [bytes].
    """
    return _time("all_gather", n, size, bandwidth, latency, base)
