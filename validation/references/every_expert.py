"""Experts of a layer each divided over all ranks, as other matrices are: partial sums are added up."""

from __future__ import annotations

from torch import Tensor

from .compare import compare, everything, random
from .conjugate import conjugate, same, summed
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
        return conjugate(whole(conjugate(x, ranks, same, summed), *weights), ranks, summed, same)

    shares = [everything] + [lambda w, at=at: w.chunk(ranks.size, at)[ranks.rank] for at in (2, 1, 1, 0)]
    return compare(ranks, divided, whole, inputs, outer, shares, everything)
