"""What every planner of sequences asks of its input before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError
from .sequences import SequenceCosts, Share

_GIB = 2.0**30


def token_counts(lengths: ArrayLike) -> NDArray[np.int64]:
    """Return lengths as whole numbers.

    Raises
    ------
    InputError
        For what is not a list of whole numbers of at least 1.
    """
    legal = "(legal: a whole number of tokens, 1 or more)"
    try:
        given = np.asarray(lengths, dtype=float)
    except (TypeError, ValueError, OverflowError):
        where, what = next((i, x) for i, x in enumerate(np.asarray(lengths, dtype=object).ravel()) if not _number(x))
        raise InputError(f"lengths[{where}]: {what!r} {legal}") from None
    if given.ndim != 1 or not given.size:
        raise InputError(f"lengths: shape {given.shape} (legal: a list of one length or more)")
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(given) & (given >= 1) & (given == np.floor(given)))
    if bad.any():
        where = int(bad.argmax())
        raise InputError(f"lengths[{where}]: {given[where]:g} {legal}")
    return given.astype(np.int64)


def checked(lengths: ArrayLike, costs: SequenceCosts, ranks: int) -> NDArray[np.int64]:
    """Return the lengths as whole numbers when some plan can hold them all.

    Raises
    ------
    InputError
        For a length that is no positive whole number or longer than the largest group holds, for states
        that leave no memory, and for ranks that no degree divides into groups.
    """
    if isinstance(ranks, bool) or int(ranks) != ranks or ranks < 1:
        raise InputError(f"ranks: {ranks} (legal: a whole number, 1 or more)")
    if costs.tokens < 1:
        raise InputError(
            f"costs.state_bytes: {costs.state_bytes / _GIB:.4g} GiB of a rank's {costs.capacity / _GIB:.4g} GiB "
            "leave no memory for a token (legal: less than costs.capacity)"
        )
    allowed = usable(costs, ranks)
    given = token_counts(lengths)
    longest = int(given.argmax())
    largest = int(allowed[-1] * costs.tokens)
    if given[longest] > largest:
        needed = 1 << max(0, int(np.ceil(np.log2(given[longest] / costs.tokens))))
        raise InputError(
            f"lengths[{longest}]: {given[longest]} tokens need groups of {needed} ranks or more, and the largest "
            f"of {ranks} ranks has {allowed[-1]} with {int(costs.tokens)} tokens each (legal: 1 to {largest})"
        )
    return given


def usable(costs: SequenceCosts, ranks: int, degree: int | None = None) -> tuple[int, ...]:
    """Degrees that groups of so many ranks may have, ascending; or the one asked for, if it is among them."""
    known = tuple(d for d in costs.degrees if 1 <= d <= ranks)
    legal = ", ".join(map(str, known)) or "none"
    if not known:
        raise InputError(f"ranks: {ranks} is less than every degree (legal: {costs.degrees[0]} or more)")
    if degree is None:
        return known
    if degree not in known:
        raise InputError(f"degree: {degree} (legal: {legal})")
    return (degree,)


def shares(groups: Sequence[tuple[int, Sequence[int]]]) -> tuple[Share, ...]:
    """Give ranks to groups of (degree, positions in the batch), largest first so that few span nodes."""
    found, first = [], 0
    for degree, members in sorted((g for g in groups if len(g[1])), key=lambda g: -g[0]):
        found.append(Share(tuple(range(first, first + degree)), tuple(sorted(int(i) for i in members))))
        first += degree
    return tuple(found)


def _number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True
