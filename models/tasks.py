"""Tasks of kernels and collectives on the ranks of a group, and what each asks of what is shared."""

from __future__ import annotations

from functools import cached_property

from ..hardware import Cluster
from ..simulator import Program
from ..simulator.communicator import Collective, Communicator
from .groups import Group, communicator
from .kernels import Kernel, Kernels

Handle = tuple[int, ...]
"""Task ids, one per simulated rank."""


class Tasks:
    """Program of a group of ranks: kernels on their compute streams, collectives beside them.

    Parameters
    ----------
    name : str
    cluster : Cluster
    kernels : Kernels
    tensor : Group
        The tensor-parallel ranks.
    simulated : int
        Ranks with tasks of their own: one for all, or every one.
    """

    def __init__(self, name: str, cluster: Cluster, kernels: Kernels, tensor: Group, simulated: int):
        self.program = Program(name)
        self.cluster, self.kernels, self.device = cluster, kernels, cluster.device
        self.tensor, self.ranks = tensor, range(simulated)
        self._last: Handle = ()  # of the compute stream
        for rank in self.ranks:
            self.program.resource(f"sm[{rank}]", 1.0)
            self.program.resource(f"hbm[{rank}]", self.device.memory_bandwidth)
            self.program.resource(f"link[{rank}]", cluster.link.bandwidth)
            if cluster.nic is not None:
                self.program.resource(f"nic[{rank}]", cluster.nic.bandwidth)

    @cached_property
    def group(self) -> Communicator:
        """Communicator of the tensor-parallel ranks."""
        return communicator(self.cluster, self.tensor.size, self.tensor.stride)

    def previous(self, rank: int) -> int:
        """The rank whose ring transfers arrive at `rank`."""
        return (rank - 1) % len(self.ranks)

    def every(self, *handles: Handle) -> tuple[int, ...]:
        """All tasks of the handles, for a dependency on the whole group."""
        return tuple(sorted({task for handle in handles for task in handle}))

    @staticmethod
    def own(index: int, *handles: Handle) -> tuple[int, ...]:
        """The tasks of the handles that belong to one rank."""
        return tuple(sorted({handle[index] for handle in handles if handle}))

    def kernel(
        self,
        kernel: Kernel,
        rank: int,
        after: tuple[int, ...],
        queue: bool = False,
        slow_writes: float = 0.0,
    ) -> int:
        """One kernel on one rank: all SMs for its time, its bytes of memory traffic.

        Collectives come first where the two compete: their channels are resident on the SMs.

        Parameters
        ----------
        kernel : Kernel
        rank : int
        after : tuple of int
        queue : bool
            Whether the kernel stands still while others occupy the DRAM queue.
        slow_writes : float
            Extra memory time of updates, as bytes of plain traffic [B].
        """
        traffic = min(kernel.memory_bytes + slow_writes, kernel.time * self.device.memory_bandwidth)
        demand = {f"sm[{rank}]": kernel.time, f"hbm[{rank}]": traffic}
        if queue:
            demand[self.dram_queue(rank)] = kernel.time
        return self.program.add(
            kernel.name,
            kind="compute",
            rank=rank,
            stream="compute",
            after=after,
            duration=kernel.time,
            latency=kernel.overhead,
            demand={k: v for k, v in demand.items() if v > 0},
            priority=1,
            flops=kernel.flops,
            memory_bytes=kernel.memory_bytes,
        )

    def dram_queue(self, rank: int) -> str:
        """The scheduler queue in front of a rank's memory, as a resource of one second per second."""
        name = f"dram queue[{rank}]"
        self.program.resource(name, 1.0)
        return name

    def join(self, handles: tuple[Handle, ...]) -> Handle:
        """One handle that is done when all of them are."""
        real = tuple(h for h in handles if h)
        if len(set(real)) <= 1:
            return real[0] if real else ()
        return tuple(
            self.program.add(
                "join",
                kind="sync",
                rank=rank,
                stream="sync",
                after=self.own(i, *real),
                duration=0.0,
            )
            for i, rank in enumerate(self.ranks)
        )

    def collective(
        self,
        cost: Collective,
        after: Handle,
        stream: str = "communication",
        units: int | None = None,
        shared: bool = True,
        group: Group | None = None,
        queued: bool = False,
    ) -> Handle:
        """A collective on one stream of every rank; starts when all ranks are ready.

        Parameters
        ----------
        cost : Collective
        after : Handle
        stream : str
        units : int, optional
            Compute units it occupies; default the channels of its protocol.
        shared : bool
            False leaves out what it takes from kernels beside it (an ideal overlap).
        group : Group, optional
            Who takes part; default the tensor-parallel group.
        queued : bool
            Whether it also waits for all kernels emitted so far.
        """
        if cost.time == 0.0:
            return after
        if queued and self._last:
            after = self.join((after, self._last)) if after else self._last
        crossing = float((group or self.tensor).crossed(cost))
        taken = cost.channels if units is None else units
        share = min(1.0, taken / self.device.compute_units)
        found = []
        for rank in self.ranks:
            demand = {f"link[{rank}]": min(cost.sent_bytes - crossing, cost.time * self.cluster.link.bandwidth)}
            if crossing and self.cluster.nic is not None:
                demand[f"nic[{rank}]"] = min(crossing, cost.time * self.cluster.nic.bandwidth)
            if shared:
                demand[f"sm[{rank}]"] = cost.time * share
                demand[f"hbm[{rank}]"] = min(cost.memory_bytes, cost.time * self.device.memory_bandwidth)
            found.append(
                self.program.add(
                    cost.kind,
                    kind="communication",
                    rank=rank,
                    stream=stream,
                    after=self.every(after),
                    duration=cost.time,
                    latency=self.kernels.software.collective_overhead,
                    demand={k: v for k, v in demand.items() if v > 0},
                    communication=cost.kind,
                    communication_bytes=cost.sent_bytes,
                    memory_bytes=cost.memory_bytes,
                    read_bytes=cost.read_bytes,
                    algorithm=cost.algorithm,
                    protocol=cost.protocol,
                )
            )
        return tuple(found)
