"""Layers of experts that ranks divide, by every technique, against layers that have all experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .compare import compare, everything, random
from .experts import Divided, expert, linear_expert, place_of, plane, results_of
from .ranks import Ranks
from .shapes import Mixture
from .travel import BF16, FP8, Formats
from .ways import added, attention, by_levels, chunked, filled, in_turn, levels, once, routing_of, straight


def flat(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """One all-to-all of every copy, and the results back."""
    return _checked(ranks, shape, partial(straight, plane(ranks, shape), Formats(), Formats()))


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
    return _checked(ranks, shape, partial(chunked, plane(ranks, shape), None, shape.degree))


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
    return _checked(ranks, shape, partial(straight, plane(ranks, shape), there, home), whole_numbers=True)


def bigmac(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Down to a narrow width, to the experts and back there, and up: one shared projection each."""
    return _checked(ranks, shape, partial(straight, plane(ranks, shape), Formats(), Formats()))


def two_batch_overlap(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Attention and experts of two sequences in turn: one is computed while the other is on its way."""
    return _checked(ranks, shape, partial(in_turn, ranks), attends=True)


# -- the layer ------------------------------------------------------------------------------------------------------


def _checked(
    ranks: Ranks,
    shape: Mixture,
    way: Callable[..., Tensor],
    whole_numbers: bool = False,
    attends: bool = False,
) -> dict[str, float]:
    """A layer whose experts are divided against one that has all of them.

    Parameters
    ----------
    ranks : Ranks
    shape : Mixture
    way : callable
        Of routing, the experts of this rank, its tokens and, where an expert is shared, what to do meanwhile.
    whole_numbers : bool
        Tokens, weights and gradients are small whole numbers, which narrow formats hold exactly.
    attends : bool
        Two sequences a rank pass attention before.
    """
    tokens, hidden, width = ranks.size * shape.tokens, shape.hidden, shape.width or shape.hidden
    sizes = [(tokens, hidden), (shape.experts, width, shape.ffn), (shape.experts, shape.ffn, width), (tokens, hidden)]
    if width < hidden:
        sizes += [(hidden, width), (width, hidden)]
    if shape.shared:
        sizes += [(hidden, shape.shared), (shape.shared, hidden)]
    gates, x, up, down, outer, *rest = random((tokens, shape.top_k), *sizes)
    if whole_numbers:
        x, outer, gates = (v.mul(1.5).round().clamp(-3, 3) for v in (x, outer, gates))
        up, down, *rest = (torch.where(v.abs() > 2.0, v.sign(), torch.zeros_like(v)) for v in (up, down, *rest))
    act = linear_expert if whole_numbers else expert
    routing = routing_of(ranks, shape, gates)
    sent = filled(ranks, shape, routing) if shape.capacity else routing
    place = place_of(ranks, shape)

    def projected(x: Tensor, between: Callable[[Tensor], Tensor], matrices: tuple[Tensor, ...]) -> Tensor:
        return between(x @ matrices[0]) @ matrices[1] if width < hidden else between(x)

    def divided(x: Tensor, up: Tensor, down: Tensor, *matrices: Tensor) -> Tensor:
        here = partial(way, sent, Divided(ranks, shape, up, down, act))
        if not shape.shared:
            return place.back(projected(place.own(x), here, matrices))
        beside: list[Tensor] = []
        total = here(x, lambda: beside.append(act(x, *matrices)))
        return total + beside[0]

    def whole(x: Tensor, up: Tensor, down: Tensor, *matrices: Tensor) -> Tensor:
        def mixed(x: Tensor) -> Tensor:
            if attends:
                x = torch.cat([part + attention(part) for part in x.chunk(2 * ranks.size)])
            results = results_of(x[routing.token], routing.expert, up, down, act)
            total = added(results * routing.gate[:, None], routing.token, len(x))
            return x + total if attends else total

        total = projected(x, mixed, matrices)
        return total + act(x, *matrices) if shape.shared else total

    shares = [place.rows, *place.weights, *[everything] * len(rest)]
    return compare(ranks, divided, whole, [x, up, down, *rest], outer, shares, place.rows, range(3, 3 + len(rest)))
