"""What techniques speak: blocks computed, outputs added up, parts of a sequence passed round.

Techniques speak to this class only. A *handle* is a tuple of task ids, one per simulated rank;
`start` is the handle everything may begin after. With folding one rank stands for all: its ring
neighbour is itself, which is what symmetry means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..hardware import Cluster
from .attention import beside
from .blocks import Attend, Block, Exchange, Experts, Work
from .dispatch import all_to_all
from .groups import Group, Groups, communicator
from .kernels import Kernel, Kernels
from .tasks import Handle, Tasks

__all__ = ["Builder", "Handle"]


class Builder(Tasks):
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
        tensor = Group(cluster, tp) if groups is None else groups.tp
        super().__init__(name, cluster, kernels, tensor, 1 if fold else tp)
        self.tp, self.groups = tp, groups
        self.start: Handle = ()
        self.scheme: Callable[[Attend, Builder, Handle], Handle] = beside
        self.reach: Callable[[Experts, Builder], Iterable[Kernel | Exchange]] = all_to_all

    @property
    def context(self) -> Group:
        """Ranks that divide sequences."""
        return Group(self.cluster, 1) if self.groups is None else self.groups.cp

    @property
    def cp_size(self) -> int:
        """How many they are."""
        return int(self.context.size)

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

    def defer(self, block: Block, after: Handle) -> None:
        """Work of the block that nothing in this pass waits for; it fills the compute stream."""
        self.compute(block.deferred, after)

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
