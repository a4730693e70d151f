"""ExFlow: a step of decoding in which tokens stay where their last expert was.

Every rank has the keys and values of all sequences, so attention goes on wherever a token is. One all-to-all a layer
carries residual streams on, and with several experts a token a second one brings the results of all but the first to
where the token is now; at the end all ranks gather the keys and values that the step has added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import blocks
from .compare import difference, random
from .experts import expert
from .ranks import Ranks
from .shapes import Mixture
from .travel import Way


class Weights(NamedTuple):
    """Of a network, by layer, and the keys and values of all sequences' pasts.

    Parameters
    ----------
    qkv, out : Tensor
        Shapes (layers, hidden, 3 hidden), (layers, hidden, hidden).
    up, down : Tensor
        Shapes (layers, experts, hidden, ffn), (layers, experts, ffn, hidden).
    past : Tensor
        Shape (layers, sequences, 2, context, hidden).
    """

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    past: Tensor


def exflow(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Keys and values of the new tokens gathered by all."""
    return _decoded(ranks, shape, numbers=False)


def exflow_numbers(ranks: Ranks, shape: Mixture) -> dict[str, float]:
    """Numbers of the new tokens gathered by all."""
    return _decoded(ranks, shape, numbers=True)


def _decoded(ranks: Ranks, shape: Mixture, numbers: bool) -> dict[str, float]:
    """Residual streams, and what all gather, against a network on one rank; nothing is learnt, so no gradients."""
    sequences, hidden, layers = ranks.size * shape.tokens, shape.hidden, shape.layers
    state, *rest = random(
        (sequences, hidden),
        (layers, hidden, 3 * hidden),
        (layers, hidden, hidden),
        (layers, shape.experts, hidden, shape.ffn),
        (layers, shape.experts, shape.ffn, hidden),
        (layers, sequences, 2, shape.context, hidden),
        scale=hidden**-0.5,
    )
    state, weights = state.to(ranks.device), Weights(*(x.to(ranks.device) for x in rest))
    table = torch.from_numpy(shape.table(ranks.size)).reshape(sequences, layers, shape.top_k).to(ranks.device)
    everyone = torch.arange(sequences, device=ranks.device)
    whole, cache = state, []
    for layer in range(layers):
        whole, added = _attention(whole, everyone, weights, layer, shape.heads)
        results = (_experts(whole, table[:, layer, slot], weights, layer) for slot in range(shape.top_k))
        whole = sum(results, whole)
        cache.append(added)

    owner, me = table // (shape.experts // ranks.size), ranks.members[ranks.rank]
    at = everyone // shape.tokens
    here, found, places = state[at == me], [], []
    for layer in range(layers):
        here, added = _attention(here, everyone[at == me], weights, layer, shape.heads)
        found.append(added)
        places.append(at)
        here, at = _moved(ranks, here, at, owner[:, layer], table[:, layer], weights, layer), owner[:, layer, 0]
    wrong = [difference(here, whole[at == me])]
    if numbers:
        published = ranks.all_gather(number_of(here)).wait().flatten()
        rows = torch.cat([everyone[at == member] for member in ranks.members])
        wrong.append(difference(published[torch.argsort(rows)], number_of(whole)))
        return {"output": max(wrong)}
    published = ranks.all_gather(torch.stack(found)).wait()
    for layer, (where, expected) in enumerate(zip(places, cache, strict=True)):
        rows = torch.cat([everyone[where == member] for member in ranks.members])
        wrong.append(difference(published[:, layer].flatten(0, 1)[torch.argsort(rows)], expected))
    return {"output": max(wrong)}


def number_of(x: Tensor) -> Tensor:
    """Likeliest next token of each row, as the number of one of as many as the row is wide."""
    (words,) = random((x.shape[1], x.shape[1]))
    return (x @ words.to(x.device)).argmax(1).int()


def _moved(
    ranks: Ranks, here: Tensor, at: Tensor, owner: Tensor, chosen: Tensor, weights: Weights, layer: int
) -> Tensor:
    """Residual streams at their first experts, with what all their experts make of them.

    Parameters
    ----------
    ranks : Ranks
    here : Tensor
        Of the tokens of this rank.
    at : Tensor of int, shape (sequences,)
        Rank of every token.
    owner, chosen : Tensor of int, shape (sequences, top_k)
        Ranks of a token's experts, and the experts.
    weights : Weights
    layer : int
    """
    me, top_k = ranks.members[ranks.rank], owner.shape[1]
    rows = Way(ranks, here.repeat_interleave(top_k, 0), at.repeat_interleave(top_k), owner.flatten()).wait()
    results = _experts(rows, chosen.flatten()[owner.flatten() == me], weights, layer)
    slot = torch.arange(top_k, device=ranks.device).repeat(len(owner))[owner.flatten() == me]
    out = rows[slot == 0] + results[slot == 0]
    if top_k == 1:
        return out
    others, home = owner[:, 1:].flatten(), owner[:, 0].repeat_interleave(top_k - 1)
    back = Way(ranks, results[slot > 0], others, home).wait()
    return out + back.reshape(len(out), top_k - 1, -1).sum(1)


def _attention(x: Tensor, sequences: Tensor, weights: Weights, layer: int, heads: int) -> tuple[Tensor, Tensor]:
    """New residual streams of some sequences' tokens, and their keys and values, shape (tokens, 2, hidden)."""
    q, *new = (x @ weights.qkv[layer]).chunk(3, -1)
    keys, values = (
        blocks.by_group(torch.cat([weights.past[layer, sequences, which], one[:, None]], 1), heads)
        for which, one in enumerate(new)
    )
    scores = torch.einsum("thd,tchd->thc", blocks.by_group(q, heads, 1), keys)
    mixed = torch.einsum("thc,tchd->thd", scores.softmax(-1), values).flatten(1)
    return x + mixed @ weights.out[layer], torch.stack(new, 1)


def _experts(x: Tensor, which: Tensor, weights: Weights, layer: int) -> Tensor:
    """What an expert makes of each row."""
    out = torch.zeros_like(x)
    for number in sorted(set(which.tolist())):
        rows = which == number
        out[rows] = expert(x[rows], weights.up[layer, number], weights.down[layer, number])
    return out
