"""Two classes of message sizes, which errors of collectives are told apart by: one shows rates, the other latencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

MIB = 2**20
LARGE, SMALL = "1 MiB and more", "below 1 MiB"
SIZE_CLASSES = (LARGE, SMALL)


def size_class(size: float) -> str:
    """Class of a message of some bytes, one of `SIZE_CLASSES`."""
    return LARGE if size >= MIB else SMALL


def mean_errors(sizes: Sequence[float], errors: ArrayLike) -> dict[str, float]:
    """Mean absolute error of each class that has any.

    Parameters
    ----------
    sizes : sequence of float
        Bytes of each message.
    errors : array_like, shape (messages,)
        Relative errors.
    """
    classes = np.array([size_class(size) for size in sizes])
    missed = np.abs(np.asarray(errors, dtype=float))
    return {name: float(missed[classes == name].mean()) for name in SIZE_CLASSES if (classes == name).any()}
