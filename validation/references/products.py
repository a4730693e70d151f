"""Products whose partial sums tensor-parallel ranks add up: what the techniques for them differ in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import conjugate
from .ranks import Pending, Ranks

Product = Callable[[Tensor, Tensor, Ranks], Tensor]
"""``(rows, matrix, ranks)``: the sum over the ranks of ``rows @ matrix``, whole or a rank's own rows of it."""
Gather = Callable[[Tensor, Tensor, Ranks], tuple[Tensor, Tensor]]
"""``(rows, matrix, ranks)``: the product of all ranks' rows, and these."""


def reduced(rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
    """Product, then one all-reduce."""
    return conjugate.summed(rows @ matrix, ranks)


def in_chunks(chunks: int) -> Product:
    """Chunk i + 1 of the rows is multiplied while chunk i is reduced (async tensor parallelism).

    Parameters
    ----------
    chunks : int
    """

    def product(rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
        under_way = [ranks.all_reduce(part @ matrix) for part in rows.chunk(chunks)]
        return torch.cat([one.wait() for one in under_way])

    return product


def gathered(rows: Tensor, matrix: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """One gather, then the product."""
    whole = conjugate.gathered(rows, ranks)
    return whole @ matrix, whole


def gathered_in_chunks(chunks: int) -> Gather:
    """The same, a rank's own rows first: those of the others are on their way, in chunks one fewer than ranks.

    Parameters
    ----------
    chunks : int
        At most, the own rows among them.
    """

    def gather(rows: Tensor, matrix: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        under_way = [ranks.all_gather(part) for part in rows.chunk(min(chunks, ranks.size) - 1)]
        own = rows @ matrix
        parts = [(part @ matrix, part) for part in (one.wait() for one in under_way)]
        product, whole = (torch.cat(some, 1) for some in zip(*parts, strict=True))
        product[ranks.rank] = own
        return product.flatten(0, 1), whole.flatten(0, 1)

    return gather


def fused(tiles: int) -> Product:
    """T3: a reduce-scatter set off by tiles of the product, then an all-gather.

    Parameters
    ----------
    tiles : int
        Of each chunk.
    """
    scatter = set_off(tiles)

    def product(rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
        gathered: Tensor = ranks.all_gather(scatter(rows, matrix, ranks)).wait()
        return gathered.flatten(0, 1)

    return product


def scattered(rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
    """Product, then one reduce-scatter: a rank has its own rows of the sum."""
    return conjugate.scattered(rows @ matrix, ranks)


def scattered_in_chunks(chunks: int) -> Product:
    """The same in chunks, each of as many rows of every rank.

    Parameters
    ----------
    chunks : int
    """

    def product(rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
        parts = zip(*(own.chunk(chunks) for own in rows.chunk(ranks.size)), strict=True)
        under_way = [ranks.reduce_scatter(torch.stack([own @ matrix for own in part])) for part in parts]
        return torch.cat([one.wait() for one in under_way])

    return product


def set_off(tiles: int) -> Product:
    """T3's ring reduce-scatter, whose tiles leave one by one as the product makes them.

    A rank multiplies first the chunk of rows it has to pass on first. Tiles of that go straight to the neighbour; of
    each later chunk a tile is added up in memory from the rank's own product and from what the neighbour before
    sends, and passed on as soon as both are there. The last chunk stays.

    Parameters
    ----------
    tiles : int
        Of each chunk.
    """

    def product(rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
        chunks = [chunk.chunk(tiles) for chunk in rows.chunk(ranks.size)]
        arriving: list[Pending] = []
        for step in range(ranks.size):
            memory, passed = [], []
            for number, tile in enumerate(chunks[(ranks.rank - 1 - step) % ranks.size]):
                update = tile @ matrix
                if step:  # the second of two updates sets off what happens to the tile
                    update = update + arriving[number].wait()[0]
                if step < ranks.size - 1:
                    passed.append(ranks.shift((update,), kind="reduce_scatter"))
                memory.append(update)
            arriving = passed
        return torch.cat(memory)

    return product


class Late:
    """A product whose all-reduce is waited for when somebody needs it (ladder residuals).

    Parameters
    ----------
    ranks : Ranks
    """

    def __init__(self, ranks: Ranks):
        self.under_way: list[Pending] = []

    def __call__(self, rows: Tensor, matrix: Tensor, ranks: Ranks) -> Tensor:
        """The tensor that will hold the sum."""
        self.under_way.append(ranks.all_reduce(rows @ matrix))
        early: Tensor = self.under_way[-1].early()
        return early

    def wait(self, left: int) -> None:
        """Until no more than so many are under way."""
        while len(self.under_way) > left:
            self.under_way.pop(0).wait()


class RowParallel(torch.autograd.Function):
    """Matrix divided by rows: partial sums of the output are added up.

    Gradients need no message.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, ranks: Ranks, product: Product) -> Tensor:
        """Shapes (rows, k), (k, n) -> (rows, n)."""
        ctx.save_for_backward(x, w)
        return product(x, w, ranks)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Of the input and the matrix."""
        x, w = ctx.saved_tensors
        return outer[0] @ w.T, x.T @ outer[0], None, None


class ColumnParallel(torch.autograd.Function):
    """Matrix divided by columns: partial sums of the input's gradient are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, ranks: Ranks, product: Product) -> Tensor:
        """Shapes (rows, k), (k, n) -> (rows, n)."""
        ctx.save_for_backward(x, w)
        ctx.ranks, ctx.product = ranks, product
        return x @ w

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Of the input, summed over the ranks, and the matrix."""
        x, w = ctx.saved_tensors
        return ctx.product(outer[0], w.T, ctx.ranks), x.T @ outer[0], None, None


class GatheredColumn(torch.autograd.Function):
    """The same with rows of the input divided over the ranks: gathered before, again for the matrix's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, ranks: Ranks, gather: Gather, scatter: Product) -> Tensor:
        """Shapes (rows / ranks, k), (k, n) -> (rows, n)."""
        ctx.save_for_backward(x, w)
        ctx.ranks, ctx.scatter = ranks, scatter
        return gather(x, w, ranks)[0]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """The rank's rows of the input's gradient, and the matrix's."""
        x, w = ctx.saved_tensors
        ranks: Ranks = ctx.ranks
        again = ranks.all_gather(x)  # beside the product
        mine = ctx.scatter(outer[0], w.T, ranks)
        return mine, again.wait().flatten(0, 1).T @ outer[0], None, None, None


class ScatteredRow(torch.autograd.Function):
    """Matrix divided by rows, rows of its summed output over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, ranks: Ranks, gather: Gather, scatter: Product) -> Tensor:
        """Shapes (rows, k), (k, n) -> (rows / ranks, n)."""
        ctx.save_for_backward(x, w)
        ctx.ranks, ctx.gather = ranks, gather
        return scatter(x, w, ranks)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Of the input and the matrix, from the gathered outer gradient."""
        x, w = ctx.saved_tensors
        mine, whole = ctx.gather(outer[0], w.T, ctx.ranks)
        return mine, x.T @ whole, None, None, None
