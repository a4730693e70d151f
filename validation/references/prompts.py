"""ExFlow on prompts: tokens at home, every copy to its expert and back, and what was read gathered by all ranks.

A rank has two prompts; a layer is causal attention and experts, each added to the residual stream.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import blocks
from .compare import compare, difference, random
from .exflow import number_of
from .experts import Divided, expert, place_of, results_of
from .ranks import Ranks
from .shapes import Mixture
from .travel import Formats
from .ways import added, routing_of, straight

PROMPTS = 2


def cache(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Keys and values of all layers are gathered."""
    return _read(ranks, shape, numbers=False)


def numbers(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Numbers of tokens are gathered."""
    return _read(ranks, shape, numbers=True)


def _read(ranks: Ranks, shape: Mixture, numbers: bool) -> dict[str, float]:
    """Residual streams, and what all gather, against a network on one rank."""
    tokens, hidden, layers = ranks.size * shape.tokens, shape.hidden, shape.layers
    sizes = (
        (layers, hidden, 3 * hidden),
        (layers, hidden, hidden),
        (layers, shape.experts, hidden, shape.ffn),
        (layers, shape.experts, shape.ffn, hidden),
    )
    x, *weights = random((tokens, hidden), *sizes, scale=hidden**-0.5)
    routing, place = routing_of(ranks, shape, torch.ones(tokens, shape.top_k, dtype=x.dtype)), place_of(ranks, shape)
    found: dict[str, list[Tensor]] = {"divided": [], "whole": []}

    def divided(x: Tensor, qkv: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
        for layer in range(layers):
            x, kv = _attention(x, qkv[layer], out[layer], shape.heads, PROMPTS)
            found["divided"].append(kv)
            into, out_of = place.weights
            here = Divided(ranks, shape, into(up[layer]), out_of(down[layer]), expert)
            x = x + straight(ranks, Formats(), Formats(), routing, here, x)
        found["divided"].append(x)
        return x

    def whole(x: Tensor, qkv: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
        for layer in range(layers):
            x, kv = _attention(x, qkv[layer], out[layer], shape.heads, PROMPTS * ranks.size)
            found["whole"].append(kv)
            results = results_of(x[routing.token], routing.expert, up[layer], down[layer], expert)
            x = x + added(results, routing.token, len(x))
        found["whole"].append(x)
        return x

    same = [lambda w: w] * len(weights)
    wrong = compare(ranks, divided, whole, [x, *weights], x, [place.rows, *same], place.rows, backward=False)["output"]
    here, everywhere = (found[name].pop() for name in ("divided", "whole"))
    if numbers:
        expected, published = number_of(everywhere), ranks.all_gather(number_of(here)).wait().flatten()
    else:
        expected = torch.stack(found["whole"])
        published = ranks.all_gather(torch.stack(found["divided"])).wait().transpose(0, 1).flatten(1, 2)
    return {"output": max(wrong, difference(published, expected))}


def _attention(x: Tensor, qkv: Tensor, out: Tensor, heads: int, prompts: int) -> tuple[Tensor, Tensor]:
    """New residual streams of some prompts' tokens, and their keys and values, shape (tokens, 2, hidden)."""
    rows = (x @ qkv).chunk(3, -1)
    q, k, v = (blocks.by_group(part.reshape(prompts, -1, part.shape[1]), heads) for part in rows)
    mixed = blocks.whole(q, k, v, True).flatten(2).flatten(0, 1)
    return x + mixed @ out, torch.stack(rows[1:], 1)
