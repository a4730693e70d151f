"""A link: how one device reaches the next, and what collectives make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .profile import Profile


@dataclass(frozen=True, slots=True)
class Link:
    """One device's way into the fabric.

    Parameters
    ----------
    name : str
    bandwidth : float
        Per direction and device [B/s].
    latency : float
        One hop with nothing to wait for, as a ring in the low-latency protocol takes it [s].
    profile : Profile
        What collectives make of the link.
    duplex : str
        "full" or "half" (both directions share the bandwidth).
    channels : int
        Compute units a collective kernel occupies.
    final_pass : bool
        Whether a reduction ends in a memory pass of its own instead of being fused into the ring.
    sources : Mapping
        Where each number comes from.
    """

    name: str
    bandwidth: float
    latency: float
    profile: Profile
    duplex: str = "full"
    channels: int = 0
    final_pass: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SwitchReduction:
    """Reduction inside the switch, such as NVLink SHARP.

    Parameters
    ----------
    base : float
        Fixed time of a call [s].
    bandwidth : float
        Wire rate per device and direction [B/s].
    efficiency : float
        Share of it that becomes all-reduce rate (size over time).
    min_ranks : int
        Fewest ranks of a node it is used for.
    min_ranks_without_p2p : int
        The same where peers do not reach each other directly.
    """

    base: float
    bandwidth: float
    efficiency: float
    min_ranks: int
    min_ranks_without_p2p: int
