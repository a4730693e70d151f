"""Torus: rings along one dimension after another, all dimensions and both ways round busy at once.

The data is cut in two parts per dimension, one for each way round. A part starts along a dimension of its
own and turns to the next when that is done (P. Sack, W. Gropp, "Collective algorithms for multiported
torus networks", ACM Transactions on Parallel Computing 1, 2015). A reduce-scatter leaves ``1 / d`` of what
there was after a dimension of d ranks; an all-gather goes the same way back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

from ...hardware.errors import InputError
from . import register
from .schedule import PHASES, Algorithm, Send


class _Part(NamedTuple):
    """A part of the data: the dimensions it goes along in turn, and which way round."""

    number: int
    order: tuple[int, ...]
    way: int


@register
class Torus(Algorithm):
    """Reduce-scatter and all-gather over a torus of a `shape` of any dimensions, by default one ring."""

    name = "torus"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")
    rendezvous = True  # a rank turns to the next dimension with all its parts

    def blocks(self, kind: str, n: int, shape: Sequence[int] = (), **options: Any) -> int:
        """One per rank and part."""
        return n * max(1, len(_parts(_shape(n, shape))))

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, shape: Sequence[int] = (), **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; the last dimension of the shape varies fastest with the rank."""
        extents = _shape(n, shape)
        parts = _parts(extents)
        strides = [prod(extents[d + 1 :]) for d in range(len(extents))]
        places = [[rank // strides[d] % extents[d] for d in range(len(extents))] for rank in range(n)]
        phases = range(len(parts[0].order))
        if kind != "all_gather":
            for phase in phases:
                yield from self._phase(phase, True, extents, parts, strides, places)
        if kind != "reduce_scatter":
            for phase in reversed(phases):
                yield from self._phase(phase, False, extents, parts, strides, places)

    @staticmethod
    def _phase(
        phase: int,
        reduces: bool,
        extents: Sequence[int],
        parts: Sequence[_Part],
        strides: Sequence[int],
        places: Sequence[Sequence[int]],
    ) -> Iterator[list[Send]]:
        """Every part along its dimension of a phase."""
        # Blocks a part moves together: those whose owners agree in the dimensions gone along so far.
        together: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for part in parts:
            for owner, place in enumerate(places):
                key = (part.number, *(place[d] for d in part.order[: phase + 1]))
                together[key].append(owner * len(parts) + part.number)
        for step in range(max(extents[part.order[phase]] for part in parts) - 1):
            sends = []
            for part in parts:
                d = part.order[phase]
                if step >= extents[d] - 1:
                    continue
                behind = (step + 1 if reduces else step) * part.way
                for rank, place in enumerate(places):
                    target = rank + ((place[d] + part.way) % extents[d] - place[d]) * strides[d]
                    owner = (place[d] - behind) % extents[d]
                    key = (part.number, *(place[e] for e in part.order[:phase]), owner)
                    sends.append(Send(rank, target, tuple(together[key]), reduces, 2 * d + (part.way < 0)))
            yield sends

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, shape: Sequence[int] = (), **options: Any) -> Any:
        """Sum over rounds of the hop and the largest message on a link; one number of ranks."""
        extents = _shape(int(n), shape)
        parts = _parts(extents)
        time = 0.0
        for phase in range(len(parts[0].order) if parts else 0):
            for step in range(max(extents[part.order[phase]] for part in parts) - 1):
                busy = [part for part in parts if step < extents[part.order[phase]] - 1]
                largest = max(_message(part, phase, extents, len(parts)) for part in busy)
                time = time + PHASES[kind] * (hop + largest * size / rate)
        return time

    def link_bytes(
        self, kind: str, n: int, size: float, shape: Sequence[int] = (), **options: Any
    ) -> tuple[float, ...]:
        """Of a link of each dimension."""
        extents = _shape(n, shape)
        parts = _parts(extents)
        found = [0.0] * len(extents)
        for part in parts:
            for phase, d in enumerate(part.order):
                if part.way > 0:
                    found[d] += PHASES[kind] * (extents[d] - 1) * _message(part, phase, extents, len(parts)) * size
        return tuple(found)


def _parts(extents: Sequence[int]) -> list[_Part]:
    """Two for each dimension of more than one rank."""
    long = [d for d, extent in enumerate(extents) if extent > 1]
    turns = [tuple(long[i:] + long[:i]) for i in range(len(long))]
    return [_Part(2 * i + down, order, -1 if down else 1) for i, order in enumerate(turns) for down in (0, 1)]


def _message(part: _Part, phase: int, extents: Sequence[int], parts: int) -> float:
    """Part of all data on a link in a step; between two ranks both ways round are one link."""
    both = 2 if extents[part.order[phase]] == 2 else 1
    return both / parts / prod(extents[d] for d in part.order[: phase + 1])


def _shape(n: int, shape: Sequence[int]) -> tuple[int, ...]:
    found = tuple(shape) or (n,)
    if prod(found) != n or min(found) < 1:
        raise InputError(
            f"torus: shape {'x'.join(map(str, found))} for {n} ranks (legal: extents whose product is {n})"
        )
    return found
