"""What a collective costs among given ranks of a cluster, and which algorithm a library takes.

Every algorithm the fabric allows is costed in each protocol and one is taken, as communication
libraries do. The protocols' numbers come from the link's profile (`hardware.profile`), the closed
forms from `algorithms`. All times take one size or an array of sizes.

Among nodes a ring runs through all ranks, with as many rails as a node has adapters. A tree, or the
switches of the nodes with a tree between them, crosses the network once per node instead of once per
rank; its two levels are taken one after the other, as published runs over two and four nodes have it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hardware.errors import InputError
from .algorithms.ring_times import all_gather_time, all_reduce_time, reduce_scatter_time

if TYPE_CHECKING:
    from ..hardware import Cluster, Protocol

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "send_recv")
_FORMULAS = {"all_reduce": all_reduce_time, "reduce_scatter": reduce_scatter_time, "all_gather": all_gather_time}
BULK, LOW = "bulk", "low latency"


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of one rank.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    algorithm, protocol : str
        What the library takes; "none" where nothing moves.
    time : float
        Seconds alone on the fabric.
    sent_bytes : float
        Bytes the rank puts on its link.
    memory_bytes : float
        Device-memory traffic of the rank: chunks read, received and reduced.
    read_bytes : float
        The reads among them.
    channels : int
        Compute units the kernel occupies.
    """

    kind: str
    algorithm: str
    protocol: str
    time: float
    sent_bytes: float
    memory_bytes: float
    read_bytes: float
    channels: int


class Communicator:
    """Collectives among the first `size` ranks of a cluster, filled node by node.

    Parameters
    ----------
    cluster : Cluster
    size : int
        Ranks in the group.
    """

    def __init__(self, cluster: Cluster, size: int):
        self.cluster, self.size = cluster, size
        self.local = min(size, cluster.devices_per_node)
        self.nodes = -(-size // cluster.devices_per_node)
        self._shares = {everyone: cluster.share(self.local, everyone) for everyone in (False, True)}
        network = {everyone: self._network(everyone) for everyone in (False, True)}
        self._outside = {everyone: share for everyone, (share, _) in network.items()}
        self._way = {everyone: latency for everyone, (_, latency) in network.items()}
        self._known: dict[tuple[str, float], Collective] = {}

    def all_reduce(self, size: float) -> Collective:
        """Sum of `size` bytes on every rank."""
        return self.collective("all_reduce", size)

    def reduce_scatter(self, size: float) -> Collective:
        """Sum of `size` bytes, each rank keeping one part (nccl-tests size: the full buffer)."""
        return self.collective("reduce_scatter", size)

    def all_gather(self, size: float) -> Collective:
        """Gather parts into `size` bytes on every rank (nccl-tests size: the full buffer)."""
        return self.collective("all_gather", size)

    def all_to_all(self, size: float) -> Collective:
        """Every rank sends a part of its `size` bytes to every rank, itself included."""
        return self.collective("all_to_all", size)

    def collective(self, kind: str, size: float, algorithm: str | None = None) -> Collective:
        """What the library does with `size` bytes, or what a pinned algorithm does.

        Raises
        ------
        InputError
            When nothing by that name runs this kind here.
        """
        if self.size == 1 or size == 0:
            return Collective(kind, "none", "none", 0.0, 0.0, 0.0, 0.0, 0)
        if algorithm is not None:
            return self._priced(kind, algorithm, *self._pinned(kind, algorithm, size), size)
        if (kind, size) not in self._known:
            options = self.options(kind, size)
            choice = int(self._choice(options))
            name, protocol, time = options[choice]
            self._known[kind, size] = self._priced(kind, name, protocol, float(time), size)
        return self._known[kind, size]

    def times(self, kind: str, sizes: Any) -> np.ndarray:
        """Times of the library's choice for an array of sizes.

        Parameters
        ----------
        kind : str
        sizes : array_like of float
            Bytes.

        Returns
        -------
        numpy.ndarray
            Seconds, of the shape of `sizes`.
        """
        sizes = np.asarray(sizes, dtype=float)
        if self.size == 1:
            return np.zeros_like(sizes)
        options = self.options(kind, sizes)
        stacked = np.stack([np.broadcast_to(time, sizes.shape) for _, _, time in options])
        chosen = np.take_along_axis(stacked, self._choice(options)[None], axis=0)[0]
        return np.where(sizes > 0, chosen, 0.0)

    def options(self, kind: str, size: Any) -> list[tuple[str, str, Any]]:
        """(algorithm, protocol, time) of everything the library has for a kind on this fabric.

        Raises
        ------
        InputError
            When `kind` is none of `KINDS`.
        """
        if kind not in KINDS:
            raise InputError(f"collective: {kind!r} (legal: {', '.join(KINDS)})")
        if kind in ("all_to_all", "send_recv"):
            return [("direct", name, self._exchange(kind, size, name)) for name in (LOW, BULK)]
        options = [("ring", name, self._ring(kind, size, name)) for name in (LOW, BULK)]
        if self.nodes > 1 and kind == "all_reduce":
            options.append(("tree", BULK, self._tree(size)))
        if kind == "all_reduce" and self._switch_reduces():
            options.append(("in-switch", BULK, self._in_switch(size)))
        return options

    def ring_bandwidth(self, protocol: str = BULK) -> float:
        """Payload bandwidth of a ring through the group, per rank and direction [B/s]."""
        bandwidth = self._rate(self._inside(protocol))
        if self.nodes > 1 and self.cluster.nic is not None:
            rails = self.local if protocol == BULK else 1  # small messages use one channel
            bandwidth = min(bandwidth, rails * self._adapter_rate(self._across(protocol)))
        return bandwidth

    def hop_latency(self, protocol: str = BULK) -> float:
        """Mean latency of one ring hop [s]: `nodes` of the ring's `size` hops cross the network."""
        inside = self._inside(protocol).hop
        if self.nodes == 1 or self.cluster.nic is None:
            return inside
        return inside + (self._across(protocol).hop - inside) * self.nodes / self.size

    def near_memory_reduce_scatter(self, size: float) -> Collective:
        """Reduce-scatter whose additions happen in the destination's memory.

        There is no final pass; every chunk is written once as it arrives and read once to be sent on.
        """
        n, chunk = self.size, size / self.size
        time = float(reduce_scatter_time(n, size, self.ring_bandwidth(), self.hop_latency()))
        moved, read = chunk * (2 * n - 3), chunk * (n - 2)
        sent = (n - 1) * chunk
        return Collective("reduce_scatter", "ring, near memory", BULK, time, sent, moved, read, 0)

    def _choice(self, options: list[tuple[str, str, Any]]) -> Any:
        """Index of the option taken, by size.

        Within an algorithm the bulk protocol is taken by the library's own table (`bulk_bias`), and of
        the algorithms the one that then is fastest.
        """
        bias = self.cluster.link.profile.bulk_bias
        chosen: Any = 0
        best: Any = np.inf
        for index, (algorithm, protocol, time) in enumerate(options):
            rivals = [t for a, p, t in options if a == algorithm and p != protocol]
            taken: Any = True
            if rivals:
                taken = time < bias * rivals[0] if protocol == BULK else rivals[0] >= bias * time
            better = np.logical_and(taken, time < best)
            chosen, best = np.where(better, index, chosen), np.where(better, time, best)
        return chosen

    def _inside(self, protocol: str) -> Protocol:
        profile = self.cluster.link.profile
        return profile.bulk if protocol == BULK else profile.low

    def _across(self, protocol: str) -> Protocol:
        assert self.cluster.nic is not None
        profile = self.cluster.nic.profile
        found = profile.bulk if protocol == BULK else profile.low
        return replace(found, hop=found.hop + self._way[False])

    def _network(self, everyone: bool) -> tuple[float, float]:
        """Part of the adapters' bandwidth the network has room for, and what its ways take [s]."""
        cluster = self.cluster
        if cluster.network is None or cluster.nic is None or self.nodes == 1:
            return 1.0, 0.0
        from .network import mean_latency, share

        queue_pairs, seed = cluster.network.get("queue_pairs"), cluster.network.get("seed", 0)
        topology, local = cluster.network_topology(), cluster.devices_per_node
        return (
            share(topology, cluster.nic.bandwidth, local, self.size, everyone, queue_pairs, seed),
            mean_latency(topology, local, self.size, everyone),
        )

    def _adapter_rate(self, protocol: Protocol, everyone: bool = False) -> float:
        """Payload rate of an adapter [B/s]."""
        assert self.cluster.nic is not None
        return self.cluster.nic.bandwidth * protocol.efficiency * self._outside[everyone]

    def _rate(self, inside: Protocol, everyone: bool = False) -> float:
        """Payload rate of a rank inside its node [B/s]."""
        return self.cluster.link.bandwidth * inside.efficiency * self._shares[everyone]

    def _ring(self, kind: str, size: Any, protocol: str) -> Any:
        n, chunk = self.size, size / self.size
        inside, bandwidth = self._inside(protocol), self.ring_bandwidth(protocol)
        base = inside.base + inside.copy * chunk / self._rate(inside)
        if self.cluster.link.final_pass and kind not in ("all_gather", "broadcast"):
            device = self.cluster.device
            base = base + 3 * chunk / (device.memory_bandwidth * device.memory_efficiency)
        if kind in ("broadcast", "reduce"):  # the whole buffer streams through all ranks
            return base + (n - 1) * self.hop_latency(protocol) + size / bandwidth
        return _FORMULAS[kind](n, size, bandwidth, self.hop_latency(protocol), base)

    def _tree(self, size: Any) -> Any:
        """Chains inside the nodes, then a double binary tree between them."""
        inside, across = self._inside(BULK), self._across(BULK)
        levels = log2(self.nodes)
        latency = 2 * ((self.local - 1) * inside.hop + levels * across.hop)
        within = 2 * size * (self.local - 1) / self.local / self._rate(inside)
        return inside.base + latency + within + self._between(size)

    def _between(self, size: Any) -> Any:
        """Time of an all-reduce's bytes on the adapters when every node is one member."""
        share = 2 * (self.nodes - 1) / self.nodes * size / self.local
        return share / self._adapter_rate(self._across(BULK))

    def _switch_reduces(self) -> bool:
        switch = self.cluster.switch_reduction
        if switch is None:
            return False
        return self.local >= (switch.min_ranks if self.cluster.p2p else switch.min_ranks_without_p2p)

    def _in_switch(self, size: Any) -> Any:
        """Reduction in the switch of every node, parts exchanged over the adapters between nodes."""
        cluster, switch = self.cluster, self.cluster.switch_reduction
        assert switch is not None
        time = size / (switch.bandwidth * switch.efficiency)
        base = switch.base
        if not cluster.p2p and cluster.nic is not None:
            # Peers hand over to one another through the NIC.
            base += (self.local - 1) * self._across(BULK).hop
        if self.nodes > 1:
            base += 2 * log2(self.nodes) * self._across(BULK).hop
            time = time + self._between(size)
        return base + time

    def _exchange(self, kind: str, size: Any, protocol: str) -> Any:
        """All peers at once: `size` bytes leave a rank, less its own part."""
        n, cluster = self.size, self.cluster
        inside, across = self._exchanging(protocol)
        rate = self._rate(inside, everyone=kind == "all_to_all")
        if kind == "send_recv":
            if across is not None and cluster.nic is not None:
                return across.base + across.hop + size / self._adapter_rate(across)
            return inside.base + inside.hop + size / rate
        chunk = size / n
        time = (self.local - 1 + inside.copy) * chunk / rate
        base = inside.base + (self.local - 1) * inside.hop
        if across is not None and cluster.nic is not None:
            # Every rank has an adapter of its own, busy beside the links.
            time = np.maximum(time, (n - self.local) * chunk / self._adapter_rate(across, everyone=True))
            base = max(base, across.base + (n - self.local) * across.hop)
        return base + time

    def _exchanging(self, protocol: str) -> tuple[Protocol, Protocol | None]:
        """Protocols of an exchange inside and, where there are several nodes, between nodes."""
        profiles = [self.cluster.link.profile]
        if self.nodes > 1 and self.cluster.nic is not None:
            profiles.append(self.cluster.nic.profile)
        found = [profile.exchange_bulk if protocol == BULK else profile.exchange_low for profile in profiles]
        return found[0], replace(found[1], base=found[1].base + self._way[True]) if len(found) > 1 else None

    def _priced(self, kind: str, algorithm: str, protocol: str, time: float, size: float) -> Collective:
        """The collective with what it does to links and memory."""
        n, chunk = self.size, size / self.size
        part = self._exchanging(protocol)[0] if algorithm == "direct" else self._inside(protocol)
        channels = self.cluster.link.channels if part.channels is None else part.channels
        if algorithm == "in-switch":
            return Collective(kind, algorithm, protocol, time, size, 2 * size, size, channels)
        # Reduce-scatter: the first chunk is read and sent, each later step reads the received and the
        # local chunk, and the last result is read twice and written once. The others copy.
        reads = {"reduce_scatter": chunk * (2 * n - 1), "all_gather": chunk * (n - 1), "all_to_all": size}
        writes = {"reduce_scatter": chunk * n, "all_gather": chunk * (n - 1), "all_to_all": size}
        for amount in (reads, writes):
            amount["all_reduce"] = amount["reduce_scatter"] + amount["all_gather"]
        sent = {"all_reduce": 2 * (n - 1) * chunk}.get(kind, (n - 1) * chunk)
        if kind in ("broadcast", "reduce", "send_recv"):
            sent = size
        read = reads.get(kind, size)
        return Collective(kind, algorithm, protocol, time, sent, read + writes.get(kind, size), read, channels)

    def _pinned(self, kind: str, algorithm: str, size: float) -> tuple[str, float]:
        """(protocol, time) of an algorithm the user wants."""
        options = self.options(kind, size)
        mine = [option for option in options if option[0] == algorithm]
        if not mine:
            legal = ", ".join(dict.fromkeys(name for name, _, _ in options))
            raise InputError(f"{kind} among {self.size} ranks: no algorithm {algorithm!r} (legal: {legal})")
        _, protocol, time = mine[int(self._choice(mine))]
        return protocol, float(time)
