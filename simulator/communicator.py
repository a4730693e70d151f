"""What a collective costs among given ranks of a cluster: the library's choice of algorithm.

Three ways to move a message are costed and the fastest taken, as communication libraries do:

* ring, low-latency protocol: a flag travels with every word, so half the wire is payload and only
  one rail is used, but a hop is cheap;
* ring, bulk protocol: full bandwidth over all rails, dearer hops;
* reduction inside the switch (all-reduce only), where the fabric has it.

The protocol split and its hop latencies follow NCCL (src/graph/tuning.cc); the ring's closed forms
are those of `collectives`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .collectives import all_gather_time, all_reduce_time, reduce_scatter_time

if TYPE_CHECKING:
    from ..hardware import Cluster

LOW_LATENCY_PAYLOAD = 0.5  # NCCL's LL protocol: 4 bytes of data, 4 bytes of flag


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of one rank.

    Parameters
    ----------
    kind : str
        all_reduce | reduce_scatter | all_gather.
    algorithm : str
    time : float
        Seconds alone on the fabric.
    sent_bytes : float
        Bytes the rank puts on its link.
    memory_bytes : float
        Device-memory traffic of the rank: chunks read, received and reduced.
    read_bytes : float
        The reads among them.
    """

    kind: str
    algorithm: str
    time: float
    sent_bytes: float
    memory_bytes: float
    read_bytes: float


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
        self._known: dict[tuple[str, float], Collective] = {}

    def all_reduce(self, size: float) -> Collective:
        """Sum of `size` bytes on every rank."""
        return self._best("all_reduce", size)

    def reduce_scatter(self, size: float) -> Collective:
        """Sum of `size` bytes, each rank keeping one part (nccl-tests size: the full buffer)."""
        return self._best("reduce_scatter", size)

    def all_gather(self, size: float) -> Collective:
        """Gather parts into `size` bytes on every rank (nccl-tests size: the full buffer)."""
        return self._best("all_gather", size)

    def near_memory_reduce_scatter(self, size: float) -> Collective:
        """Reduce-scatter whose additions happen in the destination's memory.

        There is no final pass; every chunk is written once as it arrives and read once to be sent on.
        """
        n, chunk = self.size, size / self.size
        time = float(reduce_scatter_time(n, size, self.ring_bandwidth(), self.hop_latency()))
        return Collective(
            "reduce_scatter",
            "ring, near memory",
            time,
            (n - 1) * chunk,
            chunk * (2 * n - 3),
            chunk * (n - 2),
        )

    def ring_bandwidth(self, bulk: bool = True) -> float:
        """Payload bandwidth of a ring through the group, per rank and direction [B/s]."""
        link, nic = self.cluster.link, self.cluster.nic
        share = 1.0 if bulk else LOW_LATENCY_PAYLOAD
        bandwidth = link.bandwidth * link.efficiency
        if self.nodes > 1 and nic is not None:
            rails = self.local if bulk else 1  # small messages use one channel
            bandwidth = min(bandwidth, rails * nic.bandwidth * nic.efficiency)
        return share * bandwidth

    def hop_latency(self, bulk: bool = True) -> float:
        """Mean latency of one ring hop [s]: `nodes` of the ring's `size` hops cross the network."""
        link, nic = self.cluster.link, self.cluster.nic
        inside = link.bulk_latency if bulk else link.latency
        if self.nodes == 1 or nic is None:
            return inside
        across = nic.bulk_latency if bulk else nic.latency
        return inside + (across - inside) * self.nodes / self.size

    def _best(self, kind: str, size: float) -> Collective:
        if self.size == 1 or size == 0:
            return Collective(kind, "none", 0.0, 0.0, 0.0, 0.0)
        key = (kind, size)
        if key not in self._known:
            options = [self._ring(kind, size, bulk) for bulk in (False, True)]
            if kind == "all_reduce":
                options += self._in_switch(size)
            self._known[key] = min(options, key=lambda option: option.time)
        return self._known[key]

    def _ring(self, kind: str, size: float, bulk: bool) -> Collective:
        n, link, chunk = self.size, self.cluster.link, size / self.size
        bandwidth, latency = self.ring_bandwidth(bulk), self.hop_latency(bulk)
        formula = {
            "all_reduce": all_reduce_time,
            "reduce_scatter": reduce_scatter_time,
            "all_gather": all_gather_time,
        }[kind]
        time = link.base_latency + float(formula(n, size, bandwidth, latency))
        # Reduce-scatter: the first chunk is read and sent, each later step reads the received and the
        # local chunk, and the last result is read twice and written once. All-gather copies.
        reads = {"reduce_scatter": chunk * (2 * n - 1), "all_gather": chunk * (n - 1)}
        writes = {"reduce_scatter": chunk * n, "all_gather": chunk * (n - 1)}
        for amount in (reads, writes):
            amount["all_reduce"] = amount["reduce_scatter"] + amount["all_gather"]
        if link.final_pass and kind != "all_gather":
            device = self.cluster.device
            time += 3 * chunk / (device.memory_bandwidth * device.memory_efficiency)
        steps = {"all_reduce": 2}.get(kind, 1) * (n - 1)
        return Collective(
            kind,
            "ring" if bulk else "ring, low latency",
            time,
            steps * chunk,
            reads[kind] + writes[kind],
            reads[kind],
        )

    def _in_switch(self, size: float) -> list[Collective]:
        """Reduction in the switch of every node, parts exchanged over the NICs between nodes."""
        cluster = self.cluster
        switch = cluster.switch_reduction
        if switch is None or self.local < switch.min_ranks:
            return []
        time = cluster.link.base_latency + switch.latency + size / (switch.bandwidth * switch.efficiency)
        if not cluster.p2p and cluster.nic is not None:
            # Peers hand over to one another through the NIC.
            time += (self.local - 1) * cluster.nic.bulk_latency
        if self.nodes > 1 and cluster.nic is not None:
            part = size / self.local
            time += 2 * (cluster.nic.bulk_latency + part / (cluster.nic.bandwidth * cluster.nic.efficiency))
        return [Collective("all_reduce", "in-switch", time, size, 2 * size, size)]
