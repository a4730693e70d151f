"""Dragonfly: groups of routers, all joined within a group, and every two groups by long links."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from . import checks
from .routers import Valiant

# A way within a group has at most two local links beside a global one; one over two global links must
# cost more than that, so that shortest means minimal as J. Kim et al. (ISCA 2008) define it: one global link.
_GLOBAL_COST = 3


def dragonfly(
    groups: int,
    routers: int,
    devices: int,
    bandwidth: float,
    latency: float,
    global_links: int = 1,
    local_bandwidth: float | None = None,
    global_bandwidth: float | None = None,
    global_latency: float | None = None,
    routing: Literal["minimal", "valiant"] = "minimal",
    ranks: int | None = None,
) -> Topology:
    """Groups of routers; long links only between groups.

    Global links are laid so that all pairs of groups have equally many: the ports of a group, router
    after router, lead to the next group, the one after it, and so on round. Ports left over by that stay
    empty.

    Parameters
    ----------
    groups, routers, devices : int
        Groups, routers per group, devices per router.
    bandwidth : float
        Between a device and its router, per direction [B/s].
    latency : float
        Of a link within a group [s].
    global_links : int, default 1
        Per router.
    local_bandwidth, global_bandwidth : float, optional
        Between two routers of a group, and of one global link; by default `bandwidth` [B/s].
    global_latency : float, optional
        Of a global link; by default `latency` [s].
    routing : {"minimal", "valiant"}
        Straight, or by way of a third group (`Valiant`).
    ranks : int, optional
        Devices in all, where the last routers have fewer or none.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        A value out of range, among them more groups than global links can join.
    """
    most = routers * global_links + 1
    checks.count("dragonfly: routers", routers)
    checks.count("dragonfly: devices", devices)
    checks.count("dragonfly: global_links", global_links)
    checks.count("dragonfly: groups", groups, high=most)
    full = groups * routers * devices
    checks.count("dragonfly: ranks", full if ranks is None else ranks, high=min(full, checks.LARGEST))
    if routing not in ("minimal", "valiant"):
        raise InputError(f"dragonfly: routing: {routing!r} (legal: minimal, valiant)")
    local_bandwidth = bandwidth if local_bandwidth is None else local_bandwidth
    global_bandwidth = bandwidth if global_bandwidth is None else global_bandwidth
    global_latency = latency if global_latency is None else global_latency
    checks.link("dragonfly", bandwidth, latency)
    checks.link("dragonfly", local_bandwidth, latency, "local_")
    checks.link("dragonfly", global_bandwidth, global_latency, "global_")

    checks.links("dragonfly", groups * routers * (routers + 2 * global_links))
    wiring = Wiring(f"dragonfly of {groups} groups")
    for rank in range(full if ranks is None else ranks):
        wiring.device(False, group=rank // (routers * devices))
    rows = [
        [wiring.vertex(f"router{group}.{number}", "router", group=group) for number in range(routers)]
        for group in range(groups)
    ]
    for rank in range(full if ranks is None else ranks):
        place = rank // devices
        wiring.join(rank, rows[place // routers][place % routers], bandwidth, latency)
    for members in rows:
        for a, b in itertools.combinations(members, 2):
            wiring.join(a, b, local_bandwidth, latency)
    for a, b in itertools.combinations(range(groups), 2):
        for copy in range(routers * global_links // (groups - 1)):
            ports = ((b - a - 1) % groups, (a - b - 1) % groups)
            here, there = ((port + copy * (groups - 1)) // global_links for port in ports)
            wiring.join(rows[a][here], rows[b][there], global_bandwidth, global_latency, cost=_GLOBAL_COST)
    found = wiring.topology()
    if routing == "minimal":
        return found
    return found.routed(Valiant(np.array([known["group"] for known in found.attributes])))
