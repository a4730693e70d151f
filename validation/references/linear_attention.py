"""Linear attention over a divided sequence: what travels is the state of a chunk, in fp32, whatever its length.

The basic kind, without decay or normaliser: o_t = q_t (sum over s <= t of k_s v_s'), the state of key width by value
width for every key/value head. Tensors are (batch, tokens, heads, width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import blocks
from .blocks import by_group
from .compare import applied, compare, random
from .ranks import Ranks
from .sequence_parallel import Gathered, Ring, share_of
from .shapes import Attention

Coming = Callable[[], Tensor]
"""Sum of the states of the chunks before, or backward behind, this rank's, once it is there."""
Others = Callable[[Ranks, Attention, Tensor, bool], Coming]
"""``(ranks, shape, state, backward)``: sets off what brings it."""
Softmax = Callable[[Tensor, Tensor, Tensor], Tensor]


def lasp(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """The running sum goes from rank to rank; backward the other way."""
    return _checked(ranks, shape, chained)


def lasp2(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """Every rank gathers the states of all and adds up those it needs."""
    return _checked(ranks, shape, gathered)


def lasp2_waiting(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """The same with nothing computed beside the gather."""
    return _checked(ranks, shape, gathered_before)


def lasp2h(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """A hybrid: states gathered for linear attention, keys and values, which are kept, for softmax attention."""
    return _hybrid(ranks, shape, lambda q, k, v: applied(Gathered, q, k, v, ranks, shape, True))


def gathered_kv(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """The same with keys and values gathered once more for their gradients."""
    return _hybrid(ranks, shape, lambda q, k, v: applied(Gathered, q, k, v, ranks, shape))


def ring_attention(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """The same with a ring for softmax attention."""
    return _hybrid(ranks, shape, lambda q, k, v: applied(Ring, q, k, v, ranks, shape))


def _hybrid(ranks: Ranks, shape: Attention, softmax: Softmax) -> dict[str, float]:
    """Two layers, linear attention and softmax attention over it, against both in one piece."""

    def divided(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return softmax(applied(Chunk, q, k, v, ranks, shape, gathered), keys, values)

    def whole(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return blocks.whole(blocks.linear(q, k, v, shape.causal), keys, values, shape.causal, shape.window)

    tokens, width = (shape.batch, shape.tokens * ranks.size), shape.head_dim
    queries, pairs = (*tokens, shape.heads, width), (*tokens, shape.kv_heads, width)
    *inputs, outer = random(queries, pairs, pairs, pairs, pairs, queries, scale=0.5)
    share = share_of(ranks, shape)
    return compare(ranks, divided, whole, inputs, outer, [share] * len(inputs), share)


def chained(ranks: Ranks, shape: Attention, state: Tensor, backward: bool) -> Coming:
    """Receive the sum of those before, add, send on; backward from the last rank to the first."""
    way = -1 if backward else 1
    before, behind = ranks.rank - way, ranks.rank + way

    def arrived() -> Tensor:
        total = torch.zeros_like(state)
        if 0 <= before < ranks.size:
            (sent,) = ranks.receive((state.float(),), before).wait()
            total = sent.to(state.dtype)
        if 0 <= behind < ranks.size:
            ranks.send(((total + state).float(),), behind).wait()
        return total

    return arrived


def gathered(ranks: Ranks, shape: Attention, state: Tensor, backward: bool) -> Coming:
    """Gather the states of all, in one message or in pieces of their width; without a mask all others' count."""
    pieces = [ranks.all_gather(part.float()) for part in state.chunk(shape.pieces, -1)]

    def arrived() -> Tensor:
        every = torch.cat([piece.wait() for piece in pieces], -1).to(state.dtype)
        if not shape.causal:
            return every.sum(0) - every[ranks.rank]
        return (every[ranks.rank + 1 :] if backward else every[: ranks.rank]).sum(0)

    return arrived


def gathered_before(ranks: Ranks, shape: Attention, state: Tensor, backward: bool) -> Coming:
    """The same, waited for before anything is computed."""
    total = gathered(ranks, shape, state, backward)()
    return lambda: total


class Chunk(torch.autograd.Function):
    """Scores within a rank's chunk, and the states of the other chunks for what lies outside it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ranks: Ranks, shape: Attention, others: Others) -> Tensor:
        """The state of the chunks before is kept for the backward pass."""
        split = by_group(q, k.shape[2])
        coming = others(ranks, shape, torch.einsum("bkgd,bkgv->bgdv", k, v), False)
        intra = blocks.linear(q, k, v, shape.causal)
        state = coming()
        ctx.save_for_backward(q, k, v, state)
        ctx.rest = ranks, shape, others
        inter = torch.einsum("bqgjd,bgdv->bqgjv", split, state).flatten(2, 3)
        return intra + inter

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """The gradient of the state is what travels."""
        q, k, v, state = ctx.saved_tensors
        ranks, shape, others = ctx.rest
        groups = k.shape[2]
        split, slope = (by_group(x, groups) for x in (q, outer[0]))
        coming = others(ranks, shape, torch.einsum("bqgjd,bqgjv->bgdv", split, slope), True)
        scores = torch.einsum("bqgjd,bkgd->bgjqk", split, k)
        change = torch.einsum("bqgjv,bkgv->bgjqk", slope, v)
        if shape.causal:
            scores, change = scores.tril(), change.tril()
        behind = coming()
        queries = torch.einsum("bgjqk,bkgd->bqgjd", change, k) + torch.einsum("bqgjv,bgdv->bqgjd", slope, state)
        keys = torch.einsum("bgjqk,bqgjd->bkgd", change, split) + torch.einsum("bkgv,bgdv->bkgd", v, behind)
        values = torch.einsum("bgjqk,bqgjv->bkgv", scores, slope) + torch.einsum("bkgd,bgdv->bkgv", k, behind)
        return queries.flatten(2, 3), keys, values, None, None, None


def _checked(ranks: Ranks, shape: Attention, others: Others) -> dict[str, float]:
    """Linear attention over chunks against that over the whole sequence."""
    every = (shape.batch, shape.tokens * ranks.size)
    *inputs, outer = random(
        (*every, shape.heads, shape.head_dim),
        (*every, shape.kv_heads, shape.head_dim),
        (*every, shape.kv_heads, shape.value_dim),
        (*every, shape.heads, shape.value_dim),
    )
    share = share_of(ranks, shape)
    return compare(
        ranks,
        lambda q, k, v: applied(Chunk, q, k, v, ranks, shape, others),
        lambda q, k, v: blocks.linear(q, k, v, shape.causal),
        inputs,
        outer,
        [share] * len(inputs),
        share,
    )
