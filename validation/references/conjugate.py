"""Steps among ranks, each paired with the one that gradients take back (Megatron-LM's f and g, arXiv 1909.08053)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .compare import applied
from .ranks import Ranks

Step = Callable[[Tensor, Ranks], Tensor]


def gathered(rows: Tensor, ranks: Ranks) -> Tensor:
    """Rows of all ranks, as many of each."""
    whole: Tensor = ranks.all_gather(rows).wait().flatten(0, 1)
    return whole


def scattered(rows: Tensor, ranks: Ranks) -> Tensor:
    """A rank's own rows of the sum over all, as many for each."""
    mine: Tensor = ranks.reduce_scatter(torch.stack(rows.chunk(ranks.size))).wait()
    return mine


def summed(rows: Tensor, ranks: Ranks) -> Tensor:
    """Sum over all ranks."""
    total: Tensor = ranks.all_reduce(rows).wait()
    return total


def part(rows: Tensor, ranks: Ranks) -> Tensor:
    """A rank's part of rows that all have; nothing is sent."""
    return rows.chunk(ranks.size)[ranks.rank].clone()


def same(rows: Tensor, _: Ranks) -> Tensor:
    """As they are; nothing is sent."""
    return rows.clone()


def conjugate(rows: Tensor, ranks: Ranks, there: Step, back: Step) -> Tensor:
    """One step forward, and the other for the gradient.

    Parameters
    ----------
    rows : Tensor
    ranks : Ranks
    there, back : callable
        Of this module.
    """
    found: Tensor = applied(_Conjugate, rows, ranks, there, back)
    return found


class _Conjugate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks, there: Step, back: Step) -> Tensor:
        ctx.ranks, ctx.back = ranks, back
        return there(rows, ranks)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return ctx.back(outer[0], ctx.ranks), None, None, None
