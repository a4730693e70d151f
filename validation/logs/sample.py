"""One measured collective, as the readers of logs give it and the fit takes it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from ...hardware import InputError

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "send_recv")
"""Collectives that are read and fitted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A time that somebody measured.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    size : float
        Bytes, by the convention of nccl-tests: the full buffer of all-gather and reduce-scatter, and
        what one rank sends in an all-to-all, its own part included.
    ranks, nodes : int
        Devices in the group, and machines they are spread over.
    time : float
        Seconds.
    source : str
        File it was read from.
    line : int
        Line in that file; in JSON, the number of the result or event, counted from 1.
    algorithm, protocol : str, optional
        What the log says was run, in the library's words.
    skew : float, default 0
        Seconds by which the longest of the ranks' times exceeds `time`: waiting, not transfer.

    Raises
    ------
    InputError
        For a value out of range.
    """

    kind: str
    size: float
    ranks: int
    nodes: int
    time: float
    source: str
    line: int
    algorithm: str | None = None
    protocol: str | None = None
    skew: float = 0.0

    def __post_init__(self) -> None:
        where = f"{self.source}: line {self.line}"
        if self.kind not in KINDS:
            raise InputError(f"{where}: kind: {self.kind!r} (legal: {', '.join(KINDS)})")
        if self.ranks < 2:
            raise InputError(f"{where}: ranks: {self.ranks} (legal: 2 or more; one rank moves nothing)")
        if not 1 <= self.nodes <= self.ranks:
            raise InputError(f"{where}: nodes: {self.nodes} (legal: 1 to {self.ranks}, the number of ranks)")
        for name, value in (("size", self.size), ("time", self.time)):
            if not (isfinite(value) and value > 0):
                raise InputError(f"{where}: {name}: {value!r} (legal: a number above 0)")
        if not (isfinite(self.skew) and self.skew >= 0):
            raise InputError(f"{where}: skew: {self.skew!r} (legal: a number of 0 or more)")


def bus_factor(kind: str, ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth in nccl-tests (its doc/PERFORMANCE.md).

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    ranks : int
        Devices in the group.
    """
    if kind == "all_reduce":
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if kind in ("all_gather", "reduce_scatter", "all_to_all") else 1.0
