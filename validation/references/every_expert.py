"""Experts of a layer each divided over all ranks, as other matrices are: partial sums are added up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .compare import applied, compare, everything, random
from .experts import expert, results_of
from .ranks import Ranks
from .shapes import Mixture
from .ways import added, routing_of


def baseline(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """All tokens on every rank; an all-reduce behind the layer, and behind its gradient."""
    tokens, hidden, width = ranks.size * shape.tokens, shape.hidden, shape.ffn
    gates, *inputs, outer = random(
        (tokens, shape.top_k),
        (tokens, hidden),
        (shape.experts, hidden, width),
        (shape.experts, width, hidden),
        (hidden, shape.shared),
        (shape.shared, hidden),
        (tokens, hidden),
    )
    routing = routing_of(ranks, shape, gates)

    def whole(x: Tensor, up: Tensor, down: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
        results = results_of(x[routing.token], routing.expert, up, down, expert) * routing.gate[:, None]
        return added(results, routing.token, len(x)) + expert(x, into, out_of)

    def divided(x: Tensor, *weights: Tensor) -> Tensor:
        total: Tensor = applied(_Sum, whole(applied(_Copy, x, ranks), *weights), ranks)
        return total

    shares = [everything] + [lambda w, at=at: w.chunk(ranks.size, at)[ranks.rank] for at in (2, 1, 1, 0)]
    return compare(ranks, divided, whole, inputs, outer, shares, everything)


class _Copy(torch.autograd.Function):
    """What all ranks read; backward the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        """As it is."""
        ctx.ranks = ranks
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Added up."""
        return ctx.ranks.all_reduce(outer[0]).wait(), None


class _Sum(torch.autograd.Function):
    """Sum over the ranks; its gradient is that of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        """Added up."""
        return ranks.all_reduce(x).wait()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """As it is."""
        return outer[0], None
