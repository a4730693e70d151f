"""How far predictions of a sort are off, as one number: the spread of their errors on known rows.

A spread is the standard deviation of the normal distribution whose middle 90 % reaches as far, in the logarithm of
measured over predicted, as the errors of the rows do. Errors have long tails, so it is a quantile that is matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.9
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard deviations from the middle to either end of a 90 % interval."""
# The fewest rows whose largest error is a bound for nine new ones in ten: (n + 1) 0.9 <= n. Pooled rows count as many.
PRIOR = 9.0


def spread(own: ArrayLike, others: Sequence[ArrayLike] = ()) -> float:
    """Spread of a sort's errors, drawn to those of other sorts where few rows are its own.

    The quantile is that of conformal prediction: the row to come counts among the rows, and as the worst of them. So
    few rows make a wide interval, and none at all one that holds the others.

    Parameters
    ----------
    own : array_like, of shape (rows,)
        Logarithms of measured over predicted.
    others : sequence of array_like
        The same of other sorts, which together count as `PRIOR` rows, each sort as much as another.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Without any rows.
    """
    sorts = [errors for errors in (np.abs(np.asarray(other, dtype=float)).ravel() for other in others) if errors.size]
    mine: NDArray[np.float64] = np.abs(np.asarray(own, dtype=float)).ravel()
    if not mine.size and not sorts:
        raise ValueError("no rows (legal: at least one, of its own or of others)")
    sizes = np.concatenate([mine, *sorts])
    weights = np.concatenate([np.ones(mine.size), *(np.full(s.size, PRIOR / len(sorts) / s.size) for s in sorts)])
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, LEVEL * (reached[-1] + 1) * (1 - 1e-12)))
    return float(sizes[order][min(place, sizes.size - 1)]) / Z
