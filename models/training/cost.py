"""What a piece of work costs a rank: seconds, and what it asks of everything that is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
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
        numbers = {item.name: change(getattr(self, item.name)) for item in fields(self) if item.name != "sent"}
        return Cost(**numbers, sent={kind: change(size) for kind, size in self.sent.items()})

    def __mul__(self, count: Any) -> Cost:
        return self.map(lambda number: number * count)

    def __add__(self, other: Cost) -> Cost:
        numbers = {
            item.name: getattr(self, item.name) + getattr(other, item.name)
            for item in fields(self)
            if item.name != "sent"
        }
        kinds = dict.fromkeys([*self.sent, *other.sent])
        return Cost(**numbers, sent={kind: self.sent.get(kind, 0.0) + other.sent.get(kind, 0.0) for kind in kinds})

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1.0

    def slowed(self, factor: Any) -> Cost:
        """The same work, taking `factor` times as long."""
        return replace(self, time=self.time * factor, compute=self.compute * factor)


@dataclass(frozen=True, slots=True)
class Ports:
    """What a rank can send: inside its node, and through its network adapter [B/s]."""

    link: float
    nic: float

    def least(self, *costs: Cost) -> Any:
        """Seconds the bytes of all costs take where they share a port [s]."""
        link, nic = (sum(sizes) for sizes in zip(*((c.link_bytes, c.nic_bytes) for c in costs), strict=True))
        return np.maximum(np.divide(link, self.link), np.divide(nic, self.nic) if self.nic else 0.0)
