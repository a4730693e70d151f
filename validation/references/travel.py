"""How copies of tokens get from rank to rank, and the formats they travel in.

Where all copies are at every moment is known to all ranks, as the routing table is; what travels are their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compare import applied
from .ranks import Pending, Ranks

Codec = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""Rows as they travel, and rows of what came."""

SCALED = 128  # elements that share a scale in fp8, DeepSeek-V3 (arXiv 2412.19437, section 3.3.2)


def _plain(x: Tensor) -> Tensor:
    return x


def _bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.float64)


def _fp8(x: Tensor) -> Tensor:
    """Bytes of rows in e4m3, and behind them the fp32 scales of their groups, powers of two."""
    groups = x.reshape(len(x), -1, SCALED)
    largest = groups.abs().amax(-1).clamp(min=1e-30)
    scale = torch.exp2(torch.ceil(torch.log2(largest / 448.0))).float()
    small = (groups / scale[..., None]).to(torch.float8_e4m3fn).flatten(1)
    return torch.cat([small.view(torch.uint8), scale.view(torch.uint8)], 1)


def _from_fp8(x: Tensor) -> Tensor:
    count = x.shape[1] * SCALED // (SCALED + 4)
    small = x[:, :count].contiguous().view(torch.float8_e4m3fn).to(torch.float64)
    scale = x[:, count:].contiguous().view(torch.float32).to(torch.float64)
    return (small.reshape(len(x), -1, SCALED) * scale[..., None]).flatten(1)


PLAIN: Codec = (_plain, _plain)
BF16: Codec = (_bf16, _wide)
FP8: Codec = (_fp8, _from_fp8)


class Formats(NamedTuple):
    """How rows travel forward, and their gradients backward."""

    forward: Codec = PLAIN
    backward: Codec = PLAIN


class Way:
    """Copies that go from one rank to another, started at once.

    Parameters
    ----------
    ranks : Ranks
        A group that holds both ends of every way; the pool's ranks number the places.
    rows : Tensor
        Of the copies that are here, in their order, shape (copies, width).
    at, to : Tensor of int
        Rank of every copy now and then.
    formats : Formats
    """

    def __init__(self, ranks: Ranks, rows: Tensor, at: Tensor, to: Tensor, formats: Formats | None = None):
        me = ranks.members[ranks.rank]
        parts = [rows[to[at == me] == member] for member in ranks.members]
        self._order = torch.cat([torch.nonzero((at == member) & (to == me)).flatten() for member in ranks.members])
        under_way: list[Pending] = []
        self._rows = applied(_Exchange, ranks, formats or Formats(), under_way, *parts)
        self._under_way, self._codec = under_way, (formats or Formats()).forward

    def wait(self) -> Tensor:
        """Rows of the copies that are here then, in their order."""
        rows: Tensor = applied(_Arrived, self._under_way[0], self._codec, *self._rows)
        return rows[torch.argsort(self._order)]


class _Exchange(torch.autograd.Function):
    """Starts an all-to-all, in some format; backward, waits for the gradients' way back in theirs."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, formats: Formats, under_way: list[Pending], *parts: Tensor) -> Any:
        """Placeholders of what will come, one for each rank."""
        ctx.ranks, ctx.formats = ranks, formats
        under_way.append(ranks.all_to_all([formats.forward[0](part) for part in parts]))
        lengths = under_way[0].lengths
        return tuple(part.new_zeros((count, part.shape[1])) for part, count in zip(parts, lengths, strict=True))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Gradients to where the copies came from."""
        narrow, wide = ctx.formats.backward
        return None, None, None, *(wide(x) for x in ctx.ranks.all_to_all([narrow(x) for x in outer]).wait())


class _Arrived(torch.autograd.Function):
    """Fills placeholders with what has come."""

    @staticmethod
    def forward(ctx: Any, under_way: Pending, codec: Codec, *places: Tensor) -> Tensor:
        """All rows, by their sender."""
        ctx.lengths = [len(place) for place in places]
        return torch.cat([codec[1](x) for x in under_way.wait()])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Gradients by sender."""
        return None, None, *torch.split(outer[0], ctx.lengths)
