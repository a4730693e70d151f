"""Inside one machine: devices around a switch, or in the tree of its PCIe buses."""

from __future__ import annotations

import itertools

from ..topology import Topology
from ..wiring import Duplex, Wiring
from . import checks


def switch(ranks: int, bandwidth: float, latency: float, duplex: Duplex = "full") -> Topology:
    """Devices around one switch that never blocks, as NVSwitches are to the GPUs of a node.

    Parameters
    ----------
    ranks : int
        1 or more.
    bandwidth : float
        Between a device and the switch, per direction [B/s].
    latency : float
        Between a device and the switch [s]; from device to device it counts twice.
    duplex : {"full", "half"}
        "half" where what a device sends and hears share its bandwidth.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        A value out of range.
    """
    checks.count("switch: ranks", ranks)
    checks.link("switch", bandwidth, latency)
    wiring = Wiring(f"switch of {ranks}")
    devices = wiring.devices(ranks, transit=False)
    center = wiring.vertex("switch0")
    for device in devices:
        wiring.join(device, center, bandwidth, latency, duplex)
    return wiring.topology()


def pcie_tree(
    ranks: int,
    bandwidth: float,
    latency: float,
    sockets: int = 2,
    bridges: int = 1,
    switches: int = 1,
    duplex: Duplex = "full",
    uplink: float | None = None,
    host_bandwidth: float | None = None,
    socket_bandwidth: float | None = None,
    socket_latency: float | None = None,
) -> Topology:
    """Devices behind PCIe switches behind host bridges behind sockets.

    Devices are spread over the switches in blocks that differ by one at most.

    Parameters
    ----------
    ranks : int
        1 or more.
    bandwidth : float
        Between a device and its PCIe switch [B/s]: per direction, or both together when half duplex.
    latency : float
        Of each link [s].
    sockets : int, default 2
        Every two of them joined by a link, always full duplex.
    bridges : int, default 1
        Host bridges per socket.
    switches : int, default 1
        PCIe switches per host bridge.
    duplex : {"full", "half"}
        "half" where directions share a link, as with copies that a single engine makes in turn.
    uplink : float, optional
        Between a switch and its host bridge; by default `bandwidth` [B/s].
    host_bandwidth : float, optional
        Between a host bridge and its socket; by default what all its uplinks carry [B/s].
    socket_bandwidth : float, optional
        Between two sockets, per direction; by default `bandwidth` [B/s].
    socket_latency : float, optional
        Of that link; by default `latency` [s].

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        A value out of range.
    """
    checks.count("pcie_tree: ranks", ranks)
    for name, value in (("sockets", sockets), ("bridges", bridges), ("switches", switches)):
        checks.count(f"pcie_tree: {name}", value, high=1024)
    uplink = bandwidth if uplink is None else uplink
    host_bandwidth = uplink * switches if host_bandwidth is None else host_bandwidth
    socket_bandwidth = bandwidth if socket_bandwidth is None else socket_bandwidth
    socket_latency = latency if socket_latency is None else socket_latency
    checks.link("pcie_tree", bandwidth, latency)
    checks.link("pcie_tree", uplink, latency, "uplink ")
    checks.link("pcie_tree", host_bandwidth, latency, "host_")
    checks.link("pcie_tree", socket_bandwidth, socket_latency, "socket_")
    wiring = Wiring(f"PCIe tree of {ranks}")
    number = itertools.count()
    leaves: list[int] = []
    cpus: list[int] = []
    for socket in range(sockets):
        cpus.append(wiring.vertex(f"socket{socket}", "socket"))
        for _ in range(bridges):
            bridge = wiring.vertex(f"bridge{len(leaves) // switches}", "bridge", socket=socket)
            wiring.join(bridge, cpus[-1], host_bandwidth, latency, duplex)
            for _ in range(switches):
                leaves.append(wiring.vertex(f"pcie{next(number)}", socket=socket))
                wiring.join(leaves[-1], bridge, uplink, latency, duplex)
    for a, b in itertools.combinations(cpus, 2):
        wiring.join(a, b, socket_bandwidth, socket_latency)
    for rank in range(ranks):
        place = rank * len(leaves) // ranks
        device = wiring.device(False, socket=place // (bridges * switches))
        wiring.join(device, leaves[place], bandwidth, latency, duplex)
    return wiring.topology()
