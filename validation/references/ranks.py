"""The ranks of a group as one of them sees it: their collectives, every byte counted by kind.

Bytes are those of the simulator's `communication_bytes`: what a rank puts on its link. A ring passes on 2 (n - 1) / n
of an all-reduce and (n - 1) / n of a gather or a reduce-scatter; what a rank sends to itself is not on the link.
Messages are tensors as they are, 8 bytes an element in double precision; what a technique sends narrower is narrowed
before. Lengths of uneven messages travel uncounted, as the programs leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Ledger:
    """What one rank has sent.

    Parameters
    ----------
    direction : str
        forward | backward: what is being run.
    sent : dict
        Bytes by direction and kind [B].
    messages : dict
        Collectives, or messages to one rank, in the same order.
    """

    direction: str = "forward"
    sent: dict[str, dict[str, int]] = field(default_factory=dict)
    messages: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, kind: str, size: int, share: tuple[int, int] = (1, 1)) -> None:
        """Count a share of a message.

        Parameters
        ----------
        kind : str
        size : int
            Bytes.
        share : tuple of int
            Numerator and denominator of the part of them that is sent.

        Raises
        ------
        ValueError
            When that is no whole number of bytes: the shape of a reference is to be chosen so that it is.
        """
        whole, rest = divmod(size * share[0], share[1])
        if rest:
            raise ValueError(f"{kind}: {share[0]}/{share[1]} of {size} bytes is not whole")
        if whole:
            for counts, more in ((self.sent, whole), (self.messages, 1)):
                mine = counts.setdefault(self.direction, {})
                mine[kind] = mine.get(kind, 0) + more


class Pending:
    """What a collective will have brought.

    Parameters
    ----------
    works : sequence
        Handles of `torch.distributed`.
    result : callable
        Makes the result once they are done.
    lengths : sequence of int
        First dimension of each part that will come, where they differ.
    """

    def __init__(self, works: Sequence[Any], result: Callable[[], Any], lengths: Sequence[int] = ()):
        self._works, self._result, self.lengths = list(works), result, tuple(lengths)

    def early(self) -> Any:
        """The tensor an all-reduce will have filled by the time it is waited for."""
        return self._result()

    def wait(self) -> Any:
        """The result, once it is there."""
        for work in self._works:
            work.wait()
        self._works = []
        return self._result()


class Ranks:
    """A group of ranks, of which this process is one.

    Every collective starts at once and returns a `Pending`.

    Parameters
    ----------
    members : sequence of int
        Ranks of the whole pool.
    ledger : Ledger
    device : torch.device
    groups : mapping
        Process groups by their members: these, and all that `among` is asked for.
    """

    def __init__(
        self, members: Sequence[int], ledger: Ledger, device: torch.device, groups: Mapping[tuple[int, ...], Any]
    ):
        self.members, self.ledger, self.device, self._groups = tuple(members), ledger, device, groups
        self.size, self.rank = len(self.members), self.members.index(dist.get_rank())
        self.group = groups[self.members]

    def among(self, places: Sequence[int]) -> Ranks:
        """Some of the ranks, by their places in this group, with the same ledger."""
        return Ranks([self.members[place] for place in places], self.ledger, self.device, self._groups)

    def all_reduce(self, x: Tensor) -> Pending:
        """Sum over the ranks."""
        total = x.detach().clone(memory_format=torch.contiguous_format)
        if self.size == 1:
            return Pending((), lambda: total)
        self.ledger.add("all_reduce", total.nbytes, (2 * (self.size - 1), self.size))
        work = dist.all_reduce(total, group=self.group, async_op=True)
        return Pending((work,), lambda: total)

    def all_gather(self, x: Tensor) -> Pending:
        """Tensors of all ranks, stacked along a new first dimension."""
        mine = raw(x)
        parts = [torch.empty_like(mine) for _ in self.members]
        self.ledger.add("all_gather", (self.size - 1) * mine.nbytes)
        work = dist.all_gather(parts, mine, group=self.group, async_op=True)
        return Pending((work,), lambda: torch.stack([cooked(part, x) for part in parts]))

    def reduce_scatter(self, x: Tensor) -> Pending:
        """Sum of one part of the first dimension, which has as many as there are ranks.

        A ring of sends where the backend has no such collective (gloo).
        """
        if len(x) != self.size:
            raise ValueError(f"reduce_scatter: {len(x)} parts for {self.size} ranks")
        self.ledger.add("reduce_scatter", (self.size - 1) * x[0].nbytes)
        if dist.get_backend(self.group) == "nccl":
            total = torch.empty_like(x[0])
            work = dist.reduce_scatter_tensor(total, x.contiguous(), group=self.group, async_op=True)
            return Pending((work,), lambda: total)
        passed = x[(self.rank - 1) % self.size]
        for step in range(1, self.size):
            (arrived,) = self.shift((passed,), kind="").wait()
            passed = arrived + x[(self.rank - 1 - step) % self.size]
        return Pending((), lambda: passed)

    def all_to_all(self, parts: Sequence[Tensor]) -> Pending:
        """A tensor to every rank, and those that all ranks have for this one, in order of ranks.

        Parameters
        ----------
        parts : sequence of Tensor
            For each rank, alike but for the length of the first dimension.
        """
        messages = [raw(part) for part in parts]
        lengths = torch.tensor([len(part) for part in parts], device=self.device)
        coming = torch.empty_like(lengths)
        dist.all_to_all_single(coming, lengths, group=self.group)
        row = parts[0][:0]
        width = row.new_empty((1, *row.shape[1:])).nbytes
        sizes = [int(length) * width for length in coming]
        self.ledger.add("all_to_all", sum(m.nbytes for place, m in enumerate(messages) if place != self.rank))
        arrived = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
        work = dist.all_to_all_single(
            arrived, torch.cat(messages), sizes, [m.nbytes for m in messages], group=self.group, async_op=True
        )
        return Pending((work,), lambda: [cooked(part, row) for part in torch.split(arrived, sizes)], coming.tolist())

    def shift(
        self,
        message: Sequence[Tensor],
        distance: int = 1,
        like: Sequence[Tensor] | None = None,
        kind: str = "send_recv",
    ) -> Pending:
        """Tensors sent, as one message, to the rank `distance` further round; those of the rank as far back come.

        Parameters
        ----------
        message : sequence of Tensor
            Empty to send nothing.
        distance : int
        like : sequence of Tensor, optional
            What will come, by shape and type; default as the message. Empty where nothing will.
        kind : str
            What it is counted as; empty for what is counted elsewhere.
        """
        to, source = ((self.rank + step) % self.size for step in (distance, -distance))
        return self._messages(message, to, message if like is None else like, source, kind)

    def send(self, message: Sequence[Tensor], to: int, kind: str = "send_recv") -> Pending:
        """Tensors as one message to the rank at a place of the group."""
        return self._messages(message, to, (), to, kind)

    def receive(self, like: Sequence[Tensor], source: int) -> Pending:
        """Tensors of those shapes and types from the rank at a place of the group."""
        return self._messages((), source, like, source, "")

    def _messages(self, message: Sequence[Tensor], to: int, like: Sequence[Tensor], source: int, kind: str) -> Pending:
        """One message out and one in, either of them perhaps of nothing: then there is none."""
        sizes = [x.nbytes for x in like]
        out = torch.cat([raw(x) for x in message]) if message else None
        coming = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
        both = []
        if out is not None:
            both.append(dist.P2POp(dist.isend, out, self.members[to], self.group))
            if kind:
                self.ledger.add(kind, out.nbytes)
        if like:
            both.append(dist.P2POp(dist.irecv, coming, self.members[source], self.group))
        works = dist.batch_isend_irecv(both) if both else []

        def arrived() -> tuple[Tensor, ...]:
            assert out is None or out.numel()  # it lives as long as it is under way
            return tuple(cooked(part, x) for part, x in zip(torch.split(coming, sizes), like, strict=True))

        return Pending(works, arrived)

    def uncounted_sum(self, x: Tensor) -> Tensor:
        """Sum over the ranks for a check, which is no part of what is checked."""
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total


def raw(x: Tensor) -> Tensor:
    """Bytes of a tensor, shape (nbytes,)."""
    return x.detach().contiguous().flatten().view(torch.uint8)


def cooked(message: Tensor, like: Tensor) -> Tensor:
    """Tensor of the bytes of one like another but for the length of its first dimension."""
    return message.clone().view(like.dtype).view(-1, *like.shape[1:])
