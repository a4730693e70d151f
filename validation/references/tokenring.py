"""TokenRing: keys and values stay, queries go round to the rank before, results go straight back to their owners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .blocks import Block, attend, block_of, gradients, positions, seen
from .compare import applied
from .ranks import Pending, Ranks
from .sequence_parallel import checked, merged, nothing
from .shapes import Attention

Tensors = tuple[Tensor, ...]


def tokenring(ranks: Ranks, shape: Attention) -> dict[str, float]:
    """Queries and their statistics go round; outputs, and backward the queries' gradients, come back."""
    return checked(ranks, shape, lambda q, k, v: applied(TokenRing, q, k, v, ranks, shape))


class TokenRing(torch.autograd.Function):
    """At step s a rank works on queries of the rank s further round, and returns what the step before gave."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ranks: Ranks, shape: Attention) -> Tensor:
        """Outputs return with log-sum-exps in fp32."""
        state = nothing(q, v)

        def work(block: Block, held: Tensors) -> Tensors:
            return attend(held[0], k[:, block.keys], v[:, block.keys], block.mask)

        def add(rows: slice, found: Tensors) -> None:
            nonlocal state
            state = merged(state[0], state[1], rows, found[0], found[1].to(q.dtype))

        _around(ranks, shape, (q,), (state[0], state[1].float()), work, add)
        ctx.save_for_backward(q, k, v, *state)
        ctx.ranks, ctx.shape = ranks, shape
        return state[0]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Outer gradients and fp32 statistics travel with the queries; gradients of keys and values stay."""
        q, k, v, out, lse = ctx.saved_tensors
        keys, values, queries = torch.zeros_like(k), torch.zeros_like(v), torch.zeros_like(q)

        def work(block: Block, held: Tensors) -> Tensors:
            one, slope, its, total = (x.to(q.dtype) for x in held)
            mine, *theirs = gradients(one, k[:, block.keys], v[:, block.keys], slope, its, total, block.mask)
            keys[:, block.keys] += theirs[0]
            values[:, block.keys] += theirs[1]
            return (mine,)

        def add(rows: slice, found: Tensors) -> None:
            queries[:, rows] += found[0]

        delta = (outer[0] * out).sum(-1)
        _around(ctx.ranks, ctx.shape, (q, outer[0], lse.float(), delta.float()), (q,), work, add)
        return queries, keys, values, None, None


def _around(
    ranks: Ranks,
    shape: Attention,
    mine: Tensors,
    like: Tensors,
    work: Callable[[Block, Tensors], Tensors],
    add: Callable[[slice, Tensors], None],
) -> None:
    """Rows of every rank to every rank that has keys for them, and results home.

    Parameters
    ----------
    ranks : Ranks
    shape : Attention
    mine : tuple of Tensor
        What this rank's rows travel with, shape (batch, tokens, ...) each.
    like : tuple of Tensor
        Shapes and formats of what comes back for them.
    work : callable
        Results of some rows and the keys here.
    add : callable
        Takes in results for some of this rank's rows.
    """
    size, rank, tokens = ranks.size, ranks.rank, mine[0].shape[1]

    def block(owner: int, holder: int) -> Block | None:
        """A window leaves the messages as they are, and in their blocks less to see."""
        found = block_of(shape.causal, shape.layout, size, tokens, owner % size, holder % size)
        if found is None or not shape.window:
            return found
        mine, theirs = (positions(shape.layout, size, rank % size, tokens) for rank in (owner, holder))
        return found._replace(mask=seen(mine[found.rows], theirs[found.keys], shape.window))

    def needed(some: Tensors, owner: int, holder: int) -> Tensors:
        """Rows of an owner that a holder has keys for."""
        found = block(owner, holder)
        return () if found is None else tuple(x[:, found.rows] for x in some)

    def home(done: Tensors, distance: int) -> Pending:
        """Results to the rank so far round, and this rank's from the one as far back."""
        message = [x.to(form.dtype) for x, form in zip(done, like, strict=False)]
        return ranks.shift(message, distance, needed(like, rank, rank - distance))

    def take(arrived: Pending, distance: int) -> None:
        results, found = arrived.wait(), block(rank, rank - distance)
        if found is not None:
            add(found.rows, results)

    held: Tensors = mine
    done: Tensors = ()
    for step in range(size):
        coming = None
        if step < size - 1:
            # Of what is here the next rank needs all, the half at its end, or nothing; and so do those after it.
            count = sum(x.shape[1] for x in needed(mine[:1], rank + step, rank - 1))
            passed = [x[:, x.shape[1] - count :] for x in held] if count else []
            coming = ranks.shift(passed, -1, needed(mine, rank + step + 1, rank))
        returned = home(done, step - 1) if step > 1 else None
        here = block(rank + step, rank)
        done = work(here, held) if here is not None else ()
        if step == 0:
            add(slice(None), done)
        if returned is not None:
            take(returned, step - 1)
        held = coming.wait() if coming is not None else held
    if size > 1:
        take(home(done, size - 1), size - 1)
