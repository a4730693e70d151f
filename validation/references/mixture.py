"""Layers of experts that ranks divide, by every technique, against layers that have all experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu

from .compare import compare, everything, random
from .ranks import Ranks
from .shapes import Mixture
from .travel import BF16, FP8, Formats
from .ways import Compute, Routing, added, attention, by_levels, chunked, in_turn, levels, once, routing_of, straight

Expert = Callable[[Tensor, Tensor, Tensor], Tensor]


def flat(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """One all-to-all of every copy, and the results back."""
    return _checked(ranks, shape, partial(straight, ranks, Formats(), Formats()))


def hierarchical_all_to_all(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Every copy between nodes first, among ranks of one place in theirs, and inside the nodes then."""
    return _checked(ranks, shape, partial(by_levels, *levels(ranks, shape)))


def hierarchical_once(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """The same, a token once to a node and once to a rank; sums on the way back."""
    return _checked(ranks, shape, partial(once, *levels(ranks, shape), Formats(), Formats()))


def tutel(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Chunks of the tokens, one on its way while the one before is computed."""
    return _checked(ranks, shape, partial(chunked, *levels(ranks, shape), shape.degree))


def tutel_flat(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """The same without levels."""
    return _checked(ranks, shape, partial(chunked, ranks, None, shape.degree))


def deepep(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """A token once to a node and a rank, in bf16; sums come back in bf16. Small whole numbers pass unharmed."""
    formats = Formats(BF16, BF16)
    return _checked(ranks, shape, partial(once, *levels(ranks, shape), formats, formats), whole_numbers=True)


def deepep_fp8(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """The same with tokens, and gradients of results, in fp8."""
    there, home = Formats(FP8, BF16), Formats(BF16, FP8)
    return _checked(ranks, shape, partial(once, *levels(ranks, shape), there, home), whole_numbers=True)


def deepep_low_latency(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Every copy straight to its expert, in fp8; results come back in bf16."""
    there, home = Formats(FP8, BF16), Formats(BF16, FP8)
    return _checked(ranks, shape, partial(straight, ranks, there, home), whole_numbers=True)


def bigmac(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Down to a narrow width, to the experts and back there, and up: one shared projection each."""
    return _checked(ranks, shape, partial(straight, ranks, Formats(), Formats()))


def two_batch_overlap(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Attention and experts of two sequences in turn: one is computed while the other is on its way."""
    return _checked(ranks, shape, partial(in_turn, ranks), attends=True)


# -- the layer ------------------------------------------------------------------------------------------------------


def expert(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One expert."""
    return gelu(x @ up) @ down


def linear_expert(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One that keeps whole numbers whole."""
    return (x @ up).relu() @ down


def _checked(
    ranks: Ranks,
    shape: Mixture,
    way: Callable[[Routing, Compute, Tensor], Tensor],
    whole_numbers: bool = False,
    attends: bool = False,
) -> dict[str, float]:
    """A layer whose experts are divided against one that has all of them.

    Parameters
    ----------
    ranks : Ranks
    shape : Mixture
    way : callable
        Of routing, the experts of this rank, and its tokens.
    whole_numbers : bool
        Tokens, weights and gradients are small whole numbers, which narrow formats hold exactly.
    attends : bool
        Two sequences a rank pass attention before.
    """
    tokens, width = ranks.size * shape.tokens, shape.width or shape.hidden
    sizes = [
        (tokens, shape.hidden),
        (shape.experts, width, shape.ffn),
        (shape.experts, shape.ffn, width),
        (tokens, shape.hidden),
        (tokens, shape.top_k),
    ]
    x, up, down, outer, gates = random(*sizes)
    if whole_numbers:
        x, outer, gates = (v.mul(1.5).round().clamp(-3, 3) for v in (x, outer, gates))
        up, down = (torch.where(v.abs() > 2.0, v.sign(), torch.zeros_like(v)) for v in (up, down))
    routing, act = routing_of(ranks, shape, gates), linear_expert if whole_numbers else expert
    narrow = random((shape.hidden, width), (width, shape.hidden)) if width < shape.hidden else []

    def projected(x: Tensor, between: Callable[[Tensor], Tensor], matrices: Sequence[Tensor]) -> Tensor:
        return between(x @ matrices[0]) @ matrices[1] if matrices else between(x)

    def divided(x: Tensor, up: Tensor, down: Tensor, *matrices: Tensor) -> Tensor:
        def compute(rows: Tensor, copies: Routing) -> Tensor:
            return _computed(rows, copies.expert % routing.each, up, down, act)

        return projected(x, partial(way, routing, compute), matrices)

    def whole(x: Tensor, up: Tensor, down: Tensor, *matrices: Tensor) -> Tensor:
        def mixed(x: Tensor) -> Tensor:
            if attends:
                x = torch.cat([part + attention(part) for part in x.chunk(2 * ranks.size)])
            results = _computed(x[routing.token], routing.expert, up, down, act)
            total = added(results * routing.gate[:, None], routing.token, len(x))
            return x + total if attends else total

        return projected(x, mixed, matrices)

    def mine(v: Tensor) -> Tensor:
        return v.chunk(ranks.size)[ranks.rank]

    shares = [mine, mine, mine, *[everything] * len(narrow)]
    return compare(ranks, divided, whole, [x, up, down, *narrow], outer, shares, mine, range(3, 3 + len(narrow)))


def _computed(rows: Tensor, which: Tensor, up: Tensor, down: Tensor, act: Expert) -> Tensor:
    """Rows through their experts, in place."""
    out = torch.zeros_like(rows)
    for number in range(len(up)):
        mine = torch.nonzero(which == number).flatten()
        out = out.index_put((mine,), act(rows[mine], up[number], down[number]))
    return out
