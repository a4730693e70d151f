"""A technique as code that runs, and what its program is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .order import Task
from .shapes import Attention, Mixture, Network

EXACT, FP32 = 1e-12, 1e-6
"""Differences that double precision, and single precision on the way, leave."""


@dataclass(frozen=True)
class Reference:
    """A technique as code that runs, and what its program is made of.

    Parameters
    ----------
    technique : mapping
        Name and options, as in a scenario.
    mechanism : str
        "module:function" of this package.
    ranks : int
    shape : Network, Attention or Mixture
    what : str
        What sets it apart from others of the technique.
    tolerance : float
        Of differences, relative.
    among : str
        Where one rank of the program stands for all: whether "each" sends as much, the "mean" of them does, or the
        "busiest".
    messages : bool
        Whether the program has a task for every message.
    reason : str
        Why `among` is not "each", or `messages` is False.
    """

    technique: Mapping[str, Any]
    mechanism: str
    ranks: int
    shape: Network | Attention | Mixture
    what: str = ""
    tolerance: float = EXACT
    among: Literal["each", "mean", "busiest"] = "each"
    messages: bool = True
    reason: str = ""

    @property
    def name(self) -> str:
        """Technique, and what sets it apart."""
        return f"{self.technique['name']}: {self.what}, {self.ranks} ranks"

    def task(self) -> Task:
        """What a pool of ranks is to run."""
        return Task(self.name, f"{__package__}.{self.mechanism}", self.ranks, self.shape, tuple(self._parts()))

    def _parts(self) -> Iterator[tuple[int, ...]]:
        """Rows and columns where the ranks are a grid: of heads, of nodes, or of divided experts."""
        if isinstance(self.shape, Network):
            return
        if isinstance(self.shape, Attention):
            row = self.shape.degree
        else:
            row = self.shape.tp if self.shape.tp > 1 else self.ranks // self.shape.nodes
        yield from (tuple(range(first, first + row)) for first in range(0, self.ranks, row))
        yield from (tuple(range(place, self.ranks, row)) for place in range(row))
