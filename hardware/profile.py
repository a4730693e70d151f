"""What a communication library makes of a link: the protocols' fixed costs, hops and rates.

A datasheet says what a wire carries. How long a collective takes also depends on the library: what
a call costs, what a hop costs, and which share of the wire a protocol turns into payload. Those
numbers are measured (``commlens calibrate collectives``) and kept in a profile that a link names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

PROTOCOLS = ("low", "bulk", "exchange_low", "exchange_bulk")
"""Fields of a `Profile` that are protocols."""
MIB = 2**20
LARGE, SMALL = "1 MiB and more", "below 1 MiB"
"""Sizes of messages that errors are told apart by."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way of moving chunks.

    A ring of n ranks takes ``base + steps hop + (steps + copy) chunk / rate`` with chunks of
    ``size / n`` and a rate of `efficiency` times the link's bandwidth.

    Parameters
    ----------
    base : float
        Fixed time of a call [s].
    hop : float
        One step [s].
    efficiency : float
        Payload rate over link bandwidth.
    copy : float
        What a rank spends copying its own part in and out, in chunks sent.
    channels : int or None
        Compute units a kernel of this protocol occupies; None for the link's.
    """

    base: float
    hop: float
    efficiency: float
    copy: float = 0.0
    channels: int | None = None


@dataclass(frozen=True, slots=True)
class InSwitch:
    """All-reduce by the switch: ``base + size / rate``.

    Parameters
    ----------
    base : float
        Fixed time of a call [s].
    efficiency : float
        Size over time, over link bandwidth.
    """

    base: float
    efficiency: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Protocols of a library on one kind of link.

    Parameters
    ----------
    name : str
    low, bulk : Protocol
        Of ring collectives: cheap hops, or full bandwidth.
    exchange_low, exchange_bulk : Protocol
        Of all-to-all and send/receive, where a step reaches all peers at once.
    bulk_bias : float
        A library goes by a cost table of its own, not by the true crossing: it takes the bulk
        protocol once that is predicted to need less than `bulk_bias` times the low-latency one.
    in_switch : InSwitch or None
        Reduction in the switch, where the fabric has it.
    link_bandwidth : float or None
        Bandwidth the efficiencies were taken over [B/s]; a link that states none has this.
    absolute : bool
        Whether its rates hold whatever bandwidth a link states, as where they were measured without
        knowing the link's; else they go with the link's bandwidth.
    error : Mapping
        Mean relative errors when it was fitted, by kind of row.
    spread : Mapping
        Standard deviation of the logarithm of measured over predicted time, by size of message (`LARGE`, `SMALL`).
    sources : Mapping
        Where each number comes from.
    """

    name: str
    low: Protocol
    bulk: Protocol
    exchange_low: Protocol
    exchange_bulk: Protocol
    bulk_bias: float = 1.0
    in_switch: InSwitch | None = None
    link_bandwidth: float | None = None
    absolute: bool = False
    error: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    spread: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def spread_at(self, size: float, default: float) -> float:
        """Spread of a message of some bytes; the default where none was measured."""
        return self.spread.get(LARGE if size >= MIB else SMALL, default)

    def over(self, bandwidth: float) -> Profile:
        """The profile of a link of some bandwidth [B/s]; efficiencies that are absolute are taken over it."""
        if not self.absolute or self.link_bandwidth is None:
            return self
        factor = self.link_bandwidth / bandwidth

        parts = {key: getattr(self, key) for key in (*PROTOCOLS, "in_switch")}
        scaled = {
            key: replace(part, efficiency=part.efficiency * factor) for key, part in parts.items() if part is not None
        }
        return replace(self, **scaled, link_bandwidth=bandwidth, absolute=False)
