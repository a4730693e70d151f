"""Sequences put together until they fill what a group can hold."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import ArrayLike


def best_fit(lengths: ArrayLike, capacity: float) -> list[list[int]]:
    """Pack sequences, longest first, each where it leaves the least room; a new pack where none has room.

    Returns
    -------
    list of list of int
        Positions of the sequences of each pack, in the order the packs were begun.

    Raises
    ------
    ValueError
        A sequence is longer than a pack.
    """
    given = np.asarray(lengths, dtype=np.int64)
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # of each pack, ascending, with its number
    for i in np.argsort(-given, kind="stable").tolist():
        length = int(given[i])
        if length > capacity:
            raise ValueError(f"sequence {i} of {length} tokens is longer than a pack of {capacity:.0f}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            left, pack = int(capacity), len(packs)
            packs.append([])
        else:
            left, pack = room.pop(place)
        packs[pack].append(i)
        insort(room, (left - length, pack))
    return packs
