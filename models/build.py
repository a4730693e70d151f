"""Emits the tasks of a pass: kernels on the compute stream, collectives beside them.

Techniques speak to this class only. A *handle* is a tuple of task ids, one per simulated rank;
`start` is the handle everything may begin after. With folding one rank stands for all: its ring
neighbour is itself, which is what symmetry means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from ..hardware import Cluster
from ..simulator import Program
from ..simulator.communicator import Collective, Communicator
from .attention import beside
from .blocks import Attend, Block, Exchange, Experts, Work
from .dispatch import all_to_all
from .groups import Group, Groups, communicator
from .kernels import Kernel, Kernels

Handle = tuple[int, ...]


class Builder:
    """Program of one tensor-parallel group.

    Parameters
    ----------
    name : str
    cluster : Cluster
    kernels : Kernels
    tp : int
        Ranks in the group.
    fold : bool
        Simulate one rank for all of them.
    groups : Groups, optional
        Process groups of the whole plan; default the tensor-parallel one alone.
    """

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        kernels: Kernels,
        tp: int,
        fold: bool = True,
        groups: Groups | None = None,
    ):
        self.program = Program(name)
        self.cluster, self.kernels, self.tp = cluster, kernels, tp
        self.device = cluster.device
        self.ranks = range(1 if fold else tp)
        self.groups = groups
        self.tensor = Group(cluster, tp) if groups is None else groups.tp
        self.start: Handle = ()
        self.scheme: Callable[[Attend, Builder, Handle], Handle] = beside
        self.reach: Callable[[Experts, Builder], Iterable[Kernel | Exchange]] = all_to_all
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

    @property
    def context(self) -> Group:
        """Ranks that divide sequences."""
        return Group(self.cluster, 1) if self.groups is None else self.groups.cp

    @property
    def cp_size(self) -> int:
        """How many they are."""
        return int(self.context.size)

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

    def compute(self, work: Block | Iterable[Work], after: Handle) -> Handle:
        """Kernels one after the other on the compute stream; the handle of the last.

        A block whose input is scattered over the ranks gathers it first. Without kernels, what they
        would have waited for is returned.
        """
        if isinstance(work, Block):
            if np.any(work.gather_bytes):
                after = self.collective(self.tensor.collective("all_gather", work.gather_bytes), after, queued=True)
            work = work.kernels
        pending: list[tuple[Handle, int]] = []  # messages, and how many kernels still run beside each
        for item in self.expanded(work):
            if isinstance(item, Attend):
                after = self.attend(item, self._with(after, pending))
                pending = []
            elif isinstance(item, Exchange):
                done = self.exchange(item, after)
                if item.covered:
                    pending.append((done, item.covered))
                else:
                    after = done
            else:
                after = self._with(self.run(item, after), [(done, left) for done, left in pending if left == 1])
                pending = [(done, left - 1) for done, left in pending if left > 1]
        return self._with(after, pending)

    def _with(self, after: Handle, pending: list[tuple[Handle, int]]) -> Handle:
        return self.join((after, *(done for done, _ in pending))) if pending else after

    def expanded(self, work: Iterable[Work]) -> Iterator[Kernel | Exchange | Attend]:
        """Work with experts as the technique of the scenario reaches them."""
        for item in work:
            if isinstance(item, Experts):
                yield from self.reach(item, self)
            else:
                yield item

    def exchange(self, item: Exchange, after: Handle) -> Handle:
        """A collective inside a block: launched where it stands among the kernels, so it waits for those before."""
        group = item.group or (self.tensor if self.groups is None else self.groups[item.axis])
        stream = "communication" if item.axis == "tp" else item.axis
        cost = item.cost or group.collective(item.kind, item.size)
        return self.collective(cost, after, stream, group=group, queued=True)

    def attend(self, core: Attend, after: Handle) -> Handle:
        """Attention over a divided sequence, as the scheme of the scenario arranges it."""
        return self.scheme(core, self, after)

    def run(self, kernel: Kernel, after: Handle) -> Handle:
        """One kernel on every rank."""
        self._last = tuple(self.kernel(kernel, rank, self.own(i, after)) for i, rank in enumerate(self.ranks))
        return self._last

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

    def defer(self, block: Block, after: Handle) -> None:
        """Work of the block that nothing in this pass waits for; it fills the compute stream."""
        self.compute(block.deferred, after)

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

    def all_reduce(self, block: Block, after: Handle, units: int | None = None) -> Handle:
        """Sum of the block's output over the group, scattered where the next block gathers its input."""
        kind = "reduce_scatter" if np.any(block.gather_bytes) else "all_reduce"
        return self.collective(self.tensor.collective(kind, block.output_bytes), after, units=units)

    def all_gather(self, block: Block, after: Handle) -> Handle:
        """Gather of the block's output, scattered over the group before."""
        return self.collective(self.tensor.collective("all_gather", block.output_bytes), after)

    def each(self, work: Sequence[Sequence[Kernel]], after: Handle, group: Group | None = None) -> Handle:
        """Kernels of every rank of the context-parallel group; folded, those of the one that takes longest.

        Parameters
        ----------
        work : sequence of sequence of Kernel
            For each rank.
        after : Handle
        group : Group, optional
            Of ranks; default all that divide sequences.
        """
        return self.compute(max(work, key=lambda kernels: sum(kernel.time for kernel in kernels)), after)

    def shift(
        self,
        size: float | Sequence[float],
        after: Handle,
        stream: str = "cp",
        distance: int = 1,
        group: Group | None = None,
    ) -> Handle:
        """Every rank of the context-parallel group sends to the one `distance` further round; negative is back.

        Parameters
        ----------
        size : float or sequence of float
            Bytes each sends, or every one of them; folded, the largest.
        after : Handle
        stream : str
            Messages of one stream follow each other.
        distance : int
        group : Group, optional
            Of ranks; default all that divide sequences.
        """
        group = group or self.context
        most = max(size) if isinstance(size, Sequence) else size
        cost = communicator(self.cluster, group.size, group.stride).shift(most, distance)
        return self.collective(cost, after, stream, group=group)

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
