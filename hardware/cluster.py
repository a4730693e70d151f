"""A cluster: nodes of one kind of device, joined by links, switches and network adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .device import Device
from .errors import InputError
from .link import Link, SwitchReduction

if TYPE_CHECKING:
    import networkx

    from .topology import Topology
    from .wiring import Duplex


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices and what joins them.

    Parameters
    ----------
    name : str
    device : Device
    devices_per_node, nodes : int
    fabric : str
        Inside a node: "switch" (all to all through one switch), "mesh" (each pair by a link of its own,
        which divide the device's bandwidth), "ring" (neighbours only) or "pcie" (devices behind
        switches, those joined by the host); or "described", where `node` says.
    link : Link
        Inside a node.
    nic : Link or None
        One network adapter per device; None where nodes are not joined.
    switch_reduction : SwitchReduction or None
        Reduction inside the node's switch.
    devices_per_switch : int or None
        Of a PCIe host; None for half of the devices.
    uplink : float or None
        Bandwidth from a PCIe switch to the host [B/s]; None for that of `link`.
    node : Mapping or None
        A node's fabric as a kind of `hardware.fabrics` and its options, such as what a machine printed.
    network : Mapping or None
        The same of the network between all adapters; None for one switch that never blocks.
    pin : Mapping
        Algorithm of each kind of collective that is not left to the library.
    p2p : bool
        Whether devices of a node reach each other directly; without, whatever the fabric, traffic
        takes the adapters (NCCL_P2P_DISABLE with GPUDirect RDMA) and `link` describes those.
    sources : Mapping
    """

    name: str
    device: Device
    devices_per_node: int
    nodes: int
    fabric: str
    link: Link
    nic: Link | None = None
    switch_reduction: SwitchReduction | None = None
    devices_per_switch: int | None = None
    uplink: float | None = None
    node: Mapping[str, Any] | None = field(default=None, hash=False)
    network: Mapping[str, Any] | None = field(default=None, hash=False)
    pin: Mapping[str, str] = field(default_factory=dict, hash=False)
    p2p: bool = True
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.devices_per_node * self.nodes

    def replace(self, **changes: Any) -> Cluster:
        """Copy with fields changed."""
        return replace(self, **changes)

    def graph(self) -> networkx.DiGraph[str]:
        """Directed graph of `topology`, to read, draw and check."""
        return self.topology().graph()

    def share(self, ranks: int, everyone: bool = False, stride: int = 1) -> float:
        """Part of `link.bandwidth` each of `ranks` of a node, from the first on, can send with at once.

        Parameters
        ----------
        ranks : int
        everyone : bool
            Whether each sends to all others in equal parts; else to its next in a ring. In a mesh a
            ring is as many rings as it takes to use every pair's link.
        stride : int
            From one of them to the next; the ranks between send in groups of their own.

        Returns
        -------
        float
            At most 1; less where links are half duplex, or shared on the way.
        """
        if ranks < 2 or not self.p2p or (self.fabric == "switch" and self.link.duplex == "full"):
            return 1.0
        import numpy as np

        inside = self.node_topology()
        first = np.arange(ranks)
        source, target = first, (first + 1) % ranks
        if everyone or self.fabric == "mesh":
            source, target = (a.ravel() for a in np.meshgrid(first, first, indexing="ij"))
            source, target = source[source != target], target[source != target]
        amount = ranks / len(source)
        # Groups that start at the ranks between; the last of them may have fewer in this node.
        source, target = ((a[:, None] * stride + np.arange(stride)).ravel() for a in (source, target))
        here = (source < inside.ranks) & (target < inside.ranks)
        source, target = source[here], target[here]
        if not len(source):  # no two of a group in one node
            return 1.0
        load = inside.loads(inside.paths(source, target), amount)
        return min(1.0, 1.0 / float((load * self.link.bandwidth / inside.capacity).max()))

    def node_topology(self) -> Topology:
        """Fabric inside a node as a `Topology`.

        Raises
        ------
        InputError
            When `node` describes another number of devices.
        """
        from .fabrics import build_topology, full_mesh, pcie_tree, ring, switch

        n, link = self.devices_per_node, self.link
        if self.node is not None:
            options = {key: value for key, value in self.node.items() if key != "kind"}
            found = build_topology(self.node.get("kind", ""), options, f"{self.name}: fabric")
            if found.ranks != n:
                raise InputError(f"{self.name}: fabric: {found.ranks} devices (legal: devices_per_node, {n})")
            return found
        duplex: Duplex = "half" if link.duplex == "half" else "full"
        if self.fabric == "mesh":
            return full_mesh(n, link.bandwidth / max(n - 1, 1), link.latency, duplex)
        if self.fabric == "ring":
            return ring(n, link.bandwidth, link.latency, duplex)
        if self.fabric == "pcie":
            behind = self.devices_per_switch or -(-n // 2)
            rows = -(-n // behind)
            return pcie_tree(
                n, link.bandwidth, link.latency / 4, sockets=1, switches=rows, duplex=duplex, uplink=self.uplink
            )
        return switch(n, link.bandwidth, link.latency / 2, duplex)

    def network_topology(self) -> Topology:
        """Network between all adapters, one for each device, as a `Topology`; its ranks are the adapters.

        Raises
        ------
        InputError
            When there is no adapter, or `network` describes another number of them.
        """
        from .fabrics import build_topology, parameters, switch

        if self.nic is None:
            raise InputError(f"{self.name}: nic: missing (legal: an adapter, to join nodes)")
        if self.network is None:
            return switch(self.size, self.nic.bandwidth, self.nic.latency / 2)
        options = {key: value for key, value in self.network.items() if key not in ("kind", "queue_pairs", "seed")}
        kind = self.network.get("kind", "")
        # What the cluster knows already needs no saying again.
        for key, value in (("ranks", self.size), ("bandwidth", self.nic.bandwidth), ("latency", 0.0)):
            if key in parameters(kind):
                options.setdefault(key, value)
        found = build_topology(kind, options, f"{self.name}: network")
        if found.ranks != self.size:
            raise InputError(f"{self.name}: network: {found.ranks} adapters (legal: one a device, {self.size})")
        return found

    def topology(self) -> Topology:
        """All nodes and the network between them as one `Topology`, each device with its adapter.

        Without peer-to-peer the devices of a node have only their adapters.
        """
        from .fabrics import compose, full_mesh

        if not self.p2p:
            alone = full_mesh(1, self.link.bandwidth, self.link.latency)
            return compose([alone] * self.size, self.network_topology(), nics=1)
        if self.nodes == 1:
            return self.node_topology()
        return compose([self.node_topology()] * self.nodes, self.network_topology(), nics=self.devices_per_node)
