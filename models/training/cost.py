"""What a piece of work costs a rank: seconds, and what it asks of everything that is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Cost:
    """Arranged kernels and collectives, as one piece; every number may be an array, one entry per plan.

    Parameters
    ----------
    time : float
        Seconds alone [s].
    compute, communication : float
        Seconds in which kernels and in which collectives run.
    memory_bytes, link_bytes, nic_bytes : float
        Traffic of device memory, of the link inside the node, of the network adapter [B].
    sm_time : float
        Seconds of all compute units that it takes.
    launches : float
        Kernels the host launches, those of collectives among them.
    sent : Mapping
        Bytes sent, by kind of collective.
    """

    time: Any = 0.0
    compute: Any = 0.0
    communication: Any = 0.0
    memory_bytes: Any = 0.0
    link_bytes: Any = 0.0
    nic_bytes: Any = 0.0
    sm_time: Any = 0.0
    launches: Any = 0.0
    sent: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exposed(self) -> Any:
        """Seconds in which nothing is computed."""
        return self.time - self.compute

    def map(self, change: Callable[[Any], Any]) -> Cost:
        """Cost with every number changed."""
        sent = {kind: change(size) for kind, size in self.sent.items()} if self.sent else self.sent
        return Cost(*(*map(change, _numbers(self)), sent))

    def __mul__(self, count: Any) -> Cost:
        if isinstance(count, int | float) and count in (0, 1):  # as counts of layers often are
            return self if count else Cost(sent=dict.fromkeys(self.sent, 0.0))
        return self.map(lambda number: _times(number, count))

    def __add__(self, other: Cost) -> Cost:
        sent = self.sent or other.sent
        if self.sent and other.sent:
            kinds = dict.fromkeys([*self.sent, *other.sent])
            sent = {kind: _sum(self.sent.get(kind, 0.0), other.sent.get(kind, 0.0)) for kind in kinds}
        return Cost(*(*map(_sum, _numbers(self), _numbers(other)), sent))

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1.0

    def slowed(self, factor: Any) -> Cost:
        """The same work, taking `factor` times as long."""
        return replace(self, time=_times(self.time, factor), compute=_times(self.compute, factor))


NUMBERS = tuple(name for name in Cost.__dataclass_fields__ if name != "sent")
_numbers = attrgetter(*NUMBERS)


def _nothing(number: Any) -> bool:
    """Whether a number is a plain 0: kept plain, it costs nothing beside arrays."""
    return isinstance(number, float) and not number


def _times(number: Any, count: Any) -> Any:
    return 0.0 if _nothing(number) else number * count


def _sum(one: Any, other: Any) -> Any:
    if _nothing(one):
        return other
    return one if _nothing(other) else one + other


@dataclass(frozen=True, slots=True)
class Ports:
    """What a rank can send: inside its node, and through its network adapter [B/s]."""

    link: float
    nic: float

    def least(self, *costs: Cost) -> Any:
        """Seconds the bytes of all costs take where they share a port [s]."""
        link, nic = (sum(sizes) for sizes in zip(*((c.link_bytes, c.nic_bytes) for c in costs), strict=True))
        return np.maximum(np.divide(link, self.link), np.divide(nic, self.nic) if self.nic else 0.0)
