"""Which algorithm a communication library takes among given ranks of a cluster, and what that costs.

Every algorithm the fabric allows is costed in each protocol (`costs`) and one is taken, as libraries do:
within an algorithm the bulk protocol by the library's own table, of the algorithms the fastest. A
cluster or a caller may pin one instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hardware.errors import InputError
from .algorithms import KINDS, algorithm, algorithm_names
from .costs import BULK, LOW, FabricCosts

if TYPE_CHECKING:
    from ..hardware import Cluster


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
    crossing : float, optional
        Of the bytes sent, those that leave by the network adapter [B]; None where they are the kind's usual part.
    """

    kind: str
    algorithm: str
    protocol: str
    time: float
    sent_bytes: float
    memory_bytes: float
    read_bytes: float
    channels: int
    crossing: float | None = None


class Communicator(FabricCosts):
    """Collectives among ranks 0, stride, 2 stride, ... of a cluster, filled node by node; see `FabricCosts`.

    Parameters
    ----------
    cluster : Cluster
    size : int
        Ranks in the group.
    stride : int
        From one rank of the group to the next, as of a data-parallel group beside tensor-parallel neighbours; the
        groups between do the same at the same time.
    """

    def __init__(self, cluster: Cluster, size: int, stride: int = 1):
        super().__init__(cluster, size, stride)
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

    def collective(self, kind: str, size: float, pinned: str | None = None) -> Collective:
        """What the library does with `size` bytes, or what a pinned algorithm does.

        Parameters
        ----------
        kind : str
        size : float
            Bytes.
        pinned : str, optional
            Algorithm: one of `options`, or of `algorithms` at the rates and latencies of this fabric; default what
            the cluster pins, else the library's choice.

        Raises
        ------
        InputError
            When nothing by that name runs this kind here.
        """
        if self.size == 1 or size == 0:
            return Collective(kind, "none", "none", 0.0, 0.0, 0.0, 0.0, 0)
        pinned = self.cluster.pin.get(kind) if pinned is None else pinned
        if pinned is not None:
            return self._priced(kind, pinned, *self._pinned(kind, pinned, size), size)
        if (kind, size) not in self._known:
            options = self.options(kind, size)
            choice = int(self._choice(options))
            name, protocol, time = options[choice]
            self._known[kind, size] = self._priced(kind, name, protocol, float(time), size)
        return self._known[kind, size]

    def shift(self, size: float, distance: int = 1) -> Collective:
        """Every rank sends `size` bytes to the one `distance` further round, all at once; negative is back."""
        if self.size == 1 or size == 0 or distance % self.size == 0:
            return Collective("send_recv", "none", "none", 0.0, 0.0, 0.0, 0.0, 0)
        options = [("direct", name, self.shifted(size, name, distance)) for name in (LOW, BULK)]
        name, protocol, time = options[int(self._choice(options))]
        return self._priced("send_recv", name, protocol, float(time), size)

    def scattered(self, inside: float, across: float) -> Collective:
        """Messages to all ranks at once, not in equal parts: `inside` bytes to the node's, `across` to others'."""
        if self.size == 1 or inside + across == 0:
            return Collective("all_to_all", "none", "none", 0.0, 0.0, 0.0, 0.0, 0)
        options = [("direct", name, self.messages(inside, across, name)) for name in (LOW, BULK)]
        name, protocol, time = options[int(self._choice(options))]
        sent = inside + across
        whole = self._priced("all_to_all", name, protocol, float(time), sent)
        return replace(whole, sent_bytes=sent, memory_bytes=2 * sent, read_bytes=sent, crossing=across)

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
            return [("direct", name, self.exchange(kind, size, name)) for name in (LOW, BULK)]
        options = [("ring", name, self.ring(kind, size, name)) for name in (LOW, BULK)]
        if self.nodes > 1 and kind == "all_reduce":
            options.append(("tree", BULK, self.tree(size)))
        if kind == "all_reduce" and self.switch_reduces():
            options.append(("in-switch", BULK, self.in_switch(size)))
        return options

    def near_memory_reduce_scatter(self, size: float) -> Collective:
        """Reduce-scatter whose additions happen in the destination's memory.

        There is no final pass; every chunk is written once as it arrives and read once to be sent on.
        """
        n, chunk = self.size, size / self.size
        time = float(algorithm("ring").time("reduce_scatter", n, size, self.ring_bandwidth(), self.hop_latency()))
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
        for index, (name, protocol, time) in enumerate(options):
            rivals = [t for a, p, t in options if a == name and p != protocol]
            taken: Any = True
            if rivals:
                taken = time < bias * rivals[0] if protocol == BULK else rivals[0] >= bias * time
            better = np.logical_and(taken, time < best)
            chosen, best = np.where(better, index, chosen), np.where(better, time, best)
        return chosen

    def _priced(self, kind: str, algorithm: str, protocol: str, time: float, size: float) -> Collective:
        """The collective with what it does to links and memory."""
        n, chunk = self.size, size / self.size
        part = self.exchanging(protocol)[0] if algorithm == "direct" else self.inside(protocol)
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

    def _pinned(self, kind: str, name: str, size: Any) -> tuple[str, Any]:
        """(protocol, time) of an algorithm the user wants."""
        options = self.options(kind, size)
        mine = [option for option in options if option[0] == name]
        if not mine:
            mine = self._others(kind, name, size)
        if not mine:
            legal = dict.fromkeys([*(option[0] for option in options), *self._runnable(kind)])
            raise InputError(f"{kind} among {self.size} ranks: no algorithm {name!r} (legal: {', '.join(legal)})")
        _, protocol, time = mine[int(self._choice(mine))]
        return protocol, float(time)

    def _runnable(self, kind: str) -> list[str]:
        """Algorithms beyond the library's that need nothing but a port for each rank."""
        return [name for name in algorithm_names(kind) if name not in ("ring", "in_switch", "torus")]

    def _others(self, kind: str, name: str, size: Any) -> list[tuple[str, str, Any]]:
        """An algorithm the library does not have, in both protocols."""
        if name not in self._runnable(kind):
            return []
        across = self.nodes > 1 and self.cluster.nic is not None
        found = []
        for protocol in (LOW, BULK):
            inside = self.inside(protocol)
            everyone = kind == "all_to_all" or name == "direct"
            rate, hop, options = self.rate(inside, everyone), inside.hop, {}
            if across:
                outer = self.across(protocol)
                outer_rate = self.adapter_rate(outer, everyone)
                if name.startswith("hierarchical"):
                    options = {"outer_bandwidth": outer_rate, "outer_latency": outer.hop}
                else:  # its messages go to any rank, so the adapters carry nearly all of them
                    rate, hop = min(rate, outer_rate), outer.hop
            if name.startswith("hierarchical"):
                options["local"] = self.local
            time = algorithm(name).time(kind, self.size, size, rate, hop, inside.base, **options)
            found.append((name, protocol, time))
        return found
