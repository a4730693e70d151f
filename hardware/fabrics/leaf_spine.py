"""Nodes with several adapters of several ports each, on leaves per plane and spines above."""

from __future__ import annotations

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from . import checks

# Dearer than any way inside a node, so that devices of a node meet at its switch, not at an adapter.
_ADAPTER_COST = 8


def leaf_spine(
    nodes: int,
    nodes_per_leaf: int,
    spines: int,
    bandwidth: float,
    latency: float,
    nics: int = 8,
    planes: int = 2,
    devices_per_node: int | None = None,
    uplinks: int | None = None,
    oversubscription: float = 1.0,
    rails: bool = True,
    isolated_planes: bool = False,
    device_bandwidth: float | None = None,
    device_latency: float = 0.0,
    inner_bandwidth: float | None = None,
    inner_latency: float = 0.0,
) -> Topology:
    """A leaf-spine network with one leaf per port of an adapter, such as C4's with bonded two-port NICs.

    A message leaves by any port of its device's adapter, takes any spine and arrives by any port, as the
    hash has it; a planner chooses among these paths (`routing.all_shortest`). Source: J. Dong et al.,
    "Boosting large-scale parallel training efficiency with C4", arXiv 2406.04594 (its wiring as recalled).

    Parameters
    ----------
    nodes : int
    nodes_per_leaf : int
        Nodes that share leaves.
    spines : int
        In all, or per plane where planes are isolated.
    bandwidth : float
        Of one port, per direction [B/s].
    latency : float
        Of each link of the network [s].
    nics : int, default 8
        Adapters per node.
    planes : int, default 2
        Ports per adapter, each to a leaf of its own.
    devices_per_node : int, optional
        By default as many as adapters; otherwise adapters, or devices, are shared evenly.
    uplinks : int, optional
        Per leaf, dealt out to the spines in turn; by default one to each.
    oversubscription : float, default 1
        Bandwidth below a leaf over that above it, 1 or more. It sets the bandwidth of an uplink.
    rails : bool, default True
        Whether each adapter of a node has leaves of its own (rail-optimised); else the node's share one
        per plane.
    isolated_planes : bool, default False
        Whether each plane has spines of its own, so that what leaves by one port arrives by the same.
    device_bandwidth : float, optional
        Between a device and its adapter; by default what the ports carry [B/s].
    device_latency : float, default 0
        Of that link [s].
    inner_bandwidth : float, optional
        Between a device and the switch inside its node; without, there is none [B/s].
    inner_latency : float, default 0
        Of that link [s].

    Returns
    -------
    Topology
        Vertices "nic3.1" (node.adapter), "leaf0.3.1" (group.rail.plane), "spine2" or, isolated,
        "spine2.1" (number.plane). Routed by equal-cost multipath.

    Raises
    ------
    InputError
        A value out of range.
    """
    devices = nics if devices_per_node is None else devices_per_node
    for name, value in (("nodes", nodes), ("nodes_per_leaf", nodes_per_leaf), ("spines", spines), ("nics", nics)):
        checks.count(f"leaf_spine: {name}", value)
    checks.count("leaf_spine: planes", planes, high=64)
    checks.count("leaf_spine: devices_per_node", devices)
    checks.count("leaf_spine: nodes times devices_per_node", nodes * devices)
    checks.ratio("leaf_spine: oversubscription", oversubscription)
    uplinks = spines if uplinks is None else uplinks
    if uplinks < spines:
        raise InputError(f"leaf_spine: uplinks: {uplinks} (legal: {spines} or more, one to each spine)")
    device_bandwidth = planes * bandwidth if device_bandwidth is None else device_bandwidth
    checks.link("leaf_spine", bandwidth, latency)
    checks.link("leaf_spine", device_bandwidth, device_latency, "device_")
    checks.link("leaf_spine", bandwidth if inner_bandwidth is None else inner_bandwidth, inner_latency, "inner_")

    groups = -(-nodes // nodes_per_leaf)
    checks.links("leaf_spine", 2 * groups * (nics if rails else 1) * planes * uplinks)
    checks.links("leaf_spine", 2 * nodes * (nics * planes + max(nics, devices) + devices))
    wiring = Wiring(f"leaf-spine of {nodes} nodes")
    below = min(nodes, nodes_per_leaf) * (1 if rails else nics)
    uplink = below * bandwidth / oversubscription / uplinks
    tops = {
        (plane, number): wiring.vertex(f"spine{number}.{plane}" if isolated_planes else f"spine{number}", level=2)
        for plane in range(planes if isolated_planes else 1)
        for number in range(spines)
    }
    leaves: dict[tuple[int, int, int], int] = {}
    for group in range(groups):
        for rail in range(nics if rails else 1):
            for plane in range(planes):
                name = f"leaf{group}.{rail}.{plane}" if rails else f"leaf{group}.{plane}"
                leaf = leaves[group, rail, plane] = wiring.vertex(name, level=1, plane=plane)
                for number in range(uplinks):
                    # Where uplinks do not divide evenly, leaves begin at different spines.
                    spine = tops[plane if isolated_planes else 0, (number + len(leaves) - 1) % spines]
                    wiring.join(leaf, spine, uplink, latency)
    for node in range(nodes):
        group = node // nodes_per_leaf
        ranks = [wiring.device(False, node=node, local=local) for local in range(devices)]
        adapters = [wiring.vertex(f"nic{node}.{number}", "nic", node=node) for number in range(nics)]
        for number, adapter in enumerate(adapters):
            for plane in range(planes):
                wiring.join(adapter, leaves[group, number if rails else 0, plane], bandwidth, latency, port=True)
        for device, adapter in shares(devices, nics):
            wiring.join(ranks[device], adapters[adapter], device_bandwidth, device_latency, cost=_ADAPTER_COST)
        if inner_bandwidth is not None:
            center = wiring.vertex(f"switch{node}", node=node)
            for rank in ranks:
                wiring.join(rank, center, inner_bandwidth, inner_latency)
    return wiring.topology()


def shares(devices: int, nics: int) -> list[tuple[int, int]]:
    """Which device uses which adapter: one to one, or neighbours sharing where there are fewer of one."""
    most = max(devices, nics)
    return [(number * devices // most, number * nics // most) for number in range(most)]
