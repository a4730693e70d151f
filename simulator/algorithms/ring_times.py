"""Ring collectives in closed form.

Sizes follow nccl-tests: `size` is the full buffer, also for all-gather and reduce-scatter, so a
rank holds or ends with ``size / n``. A ring moves it in equal chunks of ``size / n``; sizes that n
does not divide are spread evenly. All-reduce takes ``2 (n - 1)`` steps, the other two ``n - 1``
(R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005, section 4).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from .ring import Ring

_RING = Ring()


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
    return _RING.time("all_reduce", n, size, bandwidth, latency, base)


def reduce_scatter_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring reduce-scatter, ``base + (n - 1) (latency + size / n / bandwidth)`` [s].

    Parameters and result as in `all_reduce_time`; `size` is the input of each rank [bytes].
    """
    return _RING.time("reduce_scatter", n, size, bandwidth, latency, base)


def all_gather_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring all-gather, ``base + (n - 1) (latency + size / n / bandwidth)`` [s].

    Parameters and result as in `all_reduce_time`; `size` is the output of each rank [bytes].
    """
    return _RING.time("all_gather", n, size, bandwidth, latency, base)
