"""Softmax attention over sequences that ranks hold parts of: who sends what to whom, forward and backward.

Activations travel in double precision; what the techniques send in fp32 (statistics, gradients that go round) is
fp32 here too, and limits how exact the result is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import blocks
from .blocks import attend, block_of, gradients, merge
from .compare import Share, applied, compare, random
from .ranks import Pending, Ranks
from .shapes import Attention

Scheme = Callable[[Tensor, Tensor, Tensor], Tensor]


def ring_attention(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """Keys and values go round; backward once more, their gradients in fp32 behind them."""
    return checked(ranks, shape, lambda q, k, v: applied(Ring, q, k, v, ranks, shape))


def ulysses(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """All-to-alls from parts of the sequence to parts of the heads, and back."""

    def scheme(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads_in(ranks, shape, q, k, v)
        return heads_out(ranks, undivided(shape, q, k, v))

    return checked(ranks, shape, scheme)


def usp(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """A grid: neighbours exchange heads, those of one place in their rows are a ring."""
    row, column = grid(ranks, shape)

    def scheme(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads_in(row, shape, q, k, v)
        out = applied(Ring, q, k, v, column, shape)
        return heads_out(row, out)

    return checked(ranks, shape, scheme)


def gathered_kv(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """Keys and values gathered; backward gathered again, and their gradients scattered."""
    return checked(ranks, shape, lambda q, k, v: applied(Gathered, q, k, v, ranks, shape))


def passed_beside(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """A ring whose steps a program has as one collective, with gradients in the format of activations."""
    return checked(ranks, shape, lambda q, k, v: applied(Ring, q, k, v, ranks, shape, BESIDE))


def checked(ranks: Ranks, shape: Attention, scheme: Scheme) -> dict[str, float]:
    """Attention by a scheme against attention in one piece.

    Parameters
    ----------
    ranks : Ranks
    shape : Attention
    scheme : callable
        Of a rank's queries, keys and values.
    """
    every = (shape.batch, shape.tokens * ranks.size)
    q, k, v, outer = random(
        (*every, shape.heads, shape.head_dim),
        (*every, shape.kv_heads, shape.head_dim),
        (*every, shape.kv_heads, shape.value_dim),
        (*every, shape.heads, shape.value_dim),
    )
    share = share_of(ranks, shape)
    return compare(ranks, scheme, partial(undivided, shape), (q, k, v), outer, (share, share, share), share)


def undivided(shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of a layer in one piece, of the kind that the first one has."""
    if shape.linear[0]:
        return blocks.linear(q, k, v, shape.causal)
    return blocks.whole(q, k, v, shape.causal, shape.window)


def share_of(ranks: Ranks, shape: Attention) -> Share:
    """The tokens of this rank. In a grid a row of ranks has tokens by the layout, and its ranks runs of them."""
    rows, place = ranks.size // shape.degree, ranks.rank // shape.degree
    mine = blocks.positions(shape.layout, rows, place, shape.tokens * shape.degree)
    mine = mine.chunk(shape.degree)[ranks.rank % shape.degree]
    return lambda x: x[:, mine.to(x.device)]


# -- a ring ---------------------------------------------------------------------------------------------------------


class Messages(NamedTuple):
    """What the messages of a ring are counted as, forward and backward, and how its gradients travel.

    Parameters
    ----------
    forward, backward : str
    gradients : torch.dtype
    own : bool
        Whether those that a rank has for its own keys go round too, as in published code, or stay.
    """

    forward: str
    backward: str
    gradients: torch.dtype
    own: bool


ALONE = Messages("send_recv", "send_recv", torch.float32, True)
BESIDE = Messages("all_gather", "reduce_scatter", torch.float64, False)


def steps_of(ranks: Ranks, shape: Attention, tokens: int) -> int:
    """Ranks whose keys a rank meets: all, or those that a window over runs of tokens reaches."""
    if not shape.window or shape.layout != "contiguous":
        return ranks.size
    return min(ranks.size, 1 + -(-(shape.window - 1) // tokens))


class Ring(torch.autograd.Function):
    """Attention to the keys at hand while the next are on their way."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, ranks: Ranks, shape: Attention, messages: Messages = ALONE
    ) -> Tensor:
        """Of a rank's tokens; keys and values travel as one message."""
        out, lse = nothing(q, v)
        held, steps = (k, v), steps_of(ranks, shape, q.shape[1])
        for step in range(steps):
            coming = ranks.shift(held, kind=messages.forward) if step < steps - 1 else None
            block = _block(ranks, shape, q, ranks.rank, (ranks.rank - step) % ranks.size)
            if block is not None:
                rows, keys, mask = block
                more = attend(q[:, rows], held[0][:, keys], held[1][:, keys], mask)
                out, lse = merged(out, lse, rows, *more)
            held = coming.wait() if coming else held
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.ranks, ctx.shape, ctx.messages = ranks, shape, messages
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Keys and values once more; their gradients follow them, and from the last step go home."""
        q, k, v, out, lse = ctx.saved_tensors
        ranks, shape, slope = ctx.ranks, ctx.shape, outer[0]
        _, kind, form, own = ctx.messages
        delta = (slope * out).sum(-1)
        held, queries, steps = (k, v), torch.zeros_like(q), steps_of(ranks, shape, q.shape[1])
        following: Pending | None = None
        for step in range(steps):
            coming = ranks.shift(held, kind=kind) if step < steps - 1 else None
            found = tuple(torch.zeros_like(x) for x in held)
            block = _block(ranks, shape, q, ranks.rank, (ranks.rank - step) % ranks.size)
            if block is not None:
                rows, keys, mask = block
                block_q, block_slope, its, total = (x[:, rows] for x in (q, slope, lse, delta))
                mine, *theirs = gradients(block_q, held[0][:, keys], held[1][:, keys], block_slope, its, total, mask)
                queries[:, rows] += mine
                for whole, part in zip(found, theirs, strict=True):
                    whole[:, keys] += part
            if following is not None:
                found = tuple(own + before for own, before in zip(found, following.wait(), strict=True))
            if step or own:
                following = ranks.shift([x.to(form) for x in found], 1 if step < steps - 1 else 1 - steps, kind=kind)
            else:
                kept = found
            held = coming.wait() if coming else held
        assert following is not None
        found = tuple(x.to(q.dtype) for x in following.wait())
        found = found if own else tuple(one + two for one, two in zip(found, kept, strict=True))
        return queries, *found, None, None, None


def _block(ranks: Ranks, shape: Attention, q: Tensor, queries: int, keys: int) -> blocks.Block | None:
    return block_of(shape.causal, shape.layout, ranks.size, q.shape[1], queries, keys, shape.window)


def nothing(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of queries that have seen no key."""
    return q.new_zeros((*q.shape[:3], v.shape[-1])), torch.full_like(q[..., 0], -torch.inf)


def merged(out: Tensor, lse: Tensor, rows: slice, more: Tensor, its: Tensor) -> tuple[Tensor, Tensor]:
    """Some rows of a running output merged with those of a block."""
    out, lse = out.clone(), lse.clone()
    out[:, rows], lse[:, rows] = merge(out[:, rows], lse[:, rows], more, its)
    return out, lse


# -- heads for tokens -----------------------------------------------------------------------------------------------


class Exchanged(torch.autograd.Function):
    """All-to-all; its gradient is the all-to-all back."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parts: Tensor) -> tuple[Tensor, ...]:
        """A part to each rank, and those of each for this one."""
        ctx.ranks = ranks
        return tuple(ranks.all_to_all(parts).wait())

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Gradients where the parts came from."""
        return None, *ctx.ranks.all_to_all(outer).wait()


def heads_in(ranks: Ranks, shape: Attention, *qkv: Tensor) -> list[Tensor]:
    """From some tokens of all heads to all tokens of some heads; keys that several ranks need go to each."""
    group = shape.heads // shape.kv_heads
    each = shape.heads // ranks.size
    parts: list[list[Tensor]] = []
    for place in range(ranks.size):
        first, last = place * each, (place + 1) * each - 1
        kv = slice(first // group, last // group + 1)
        parts.append([x[:, :, slice(first, last + 1) if x is qkv[0] else kv] for x in qkv])
    if shape.pieces:
        messages = [[one[number] for one in parts] for number in range(len(qkv))]
        return [torch.cat(_exchanged(ranks, one), 1) for one in messages]
    widths = [x.flatten(2).shape[2] for x in parts[0]]
    packed = torch.cat(_exchanged(ranks, [torch.cat([x.flatten(2) for x in one], 2) for one in parts]), 1)
    every = zip(torch.split(packed, widths, 2), parts[ranks.rank], strict=True)
    return [x.reshape(*x.shape[:2], *like.shape[2:]) for x, like in every]


def heads_out(ranks: Ranks, out: Tensor) -> Tensor:
    """Back: from all tokens of some heads to some tokens of all heads."""
    return torch.cat(_exchanged(ranks, out.chunk(ranks.size, 1)), 2)


def _exchanged(ranks: Ranks, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = applied(Exchanged, ranks, *parts)
    return found


def grid(ranks: Ranks, shape: Attention) -> tuple[Ranks, Ranks]:
    """The row and the column of this rank in a grid of `shape.degree` columns."""
    row, place = divmod(ranks.rank, shape.degree)
    columns = range(place, ranks.size, shape.degree)
    return ranks.among(range(row * shape.degree, (row + 1) * shape.degree)), ranks.among(columns)


# -- keys and values of all -----------------------------------------------------------------------------------------


class Gathered(torch.autograd.Function):
    """A rank's own queries over the keys of all ranks, gathered as one message with the values."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, ranks: Ranks, shape: Attention, keep: bool = False
    ) -> Tensor:
        """`keep` holds what was gathered until the backward pass, which otherwise gathers it again."""
        whole = _gather(ranks, k, v)
        every = [blocks.positions(shape.layout, ranks.size, rank, shape.tokens) for rank in range(ranks.size)]
        mask = blocks.seen(every[ranks.rank], torch.cat(every), shape.window) if shape.causal else None
        out, lse = attend(q, whole[0], whole[1], mask)
        ctx.save_for_backward(q, k, v, out, lse, *(whole if keep else ()))
        ctx.ranks, ctx.mask = ranks, mask
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Gradients of all keys and values, of which each rank gets the sum of its own."""
        q, k, v, out, lse, *kept = ctx.saved_tensors
        keys, values = kept or _gather(ctx.ranks, k, v)
        queries, *theirs = gradients(q, keys, values, outer[0], lse, (outer[0] * out).sum(-1), ctx.mask)
        parts = torch.stack(torch.cat(theirs, -1).chunk(ctx.ranks.size, 1))
        mine = ctx.ranks.reduce_scatter(parts).wait()
        return queries, *torch.split(mine, [k.shape[-1], v.shape[-1]], -1), None, None, None


def _gather(ranks: Ranks, k: Tensor, v: Tensor) -> list[Tensor]:
    """Keys and values of all ranks in their order."""
    every = ranks.all_gather(torch.cat([k, v], -1)).wait().movedim(0, 1).flatten(1, 2)
    return list(torch.split(every, [k.shape[-1], v.shape[-1]], -1))
