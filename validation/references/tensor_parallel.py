"""Transformer layers over ranks that divide their matrices: Megatron's, and what techniques make of them.

A layer is causal attention and a gated MLP, each after a norm without parameters. Matrices that follow a norm are
divided by columns, those that end a block by rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

from .compare import Layer, applied, compare, everything, random
from .products import (
    ColumnParallel,
    Gather,
    GatheredColumn,
    Late,
    Product,
    RowParallel,
    ScatteredRow,
    fused,
    gathered,
    gathered_in_chunks,
    in_chunks,
    reduced,
    scattered,
    scattered_in_chunks,
    set_off,
)
from .ranks import Ranks
from .shapes import Network

Linear = Callable[[Tensor, Tensor], Tensor]
Stack = Callable[[Tensor, Sequence[Layer]], Tensor]
TILES = 2  # of a chunk of T3
PER_LAYER = 4  # matrices


def baseline(ranks: Ranks, shape: Network) -> dict[str, float]:
    """Megatron-LM: an all-reduce behind every block, and behind its gradient.

    With sequence parallelism norms and residuals are on each rank's own tokens, gathered before every block and
    scattered behind it.
    """
    return _checked(ranks, shape, _linears(ranks, shape, reduced, scattered))


def async_tp(ranks: Ranks, shape: Network) -> dict[str, float]:
    """The same in row chunks, each reduced while the next is multiplied."""
    product, scatter = in_chunks(shape.chunks), scattered_in_chunks(shape.chunks)
    return _checked(ranks, shape, _linears(ranks, shape, product, scatter, gather=gathered_in_chunks(shape.chunks)))


def t3(ranks: Ranks, shape: Network) -> dict[str, float]:
    """The same with the reduce-scatter set off by tiles of the product."""
    return _checked(ranks, shape, _linears(ranks, shape, fused(TILES), set_off(TILES)))


def parallel_attention(ranks: Ranks, shape: Network) -> dict[str, float]:
    """Both halves of a layer read one input and are added up before one all-reduce."""
    return _checked(ranks, shape, _linears(ranks, shape, reduced, scattered), fuse=True)


def ladder_residual(ranks: Ranks, shape: Network) -> dict[str, float]:
    """A block reads the residual stream while the all-reduce before it is still under way."""
    if shape.sequence_parallel:
        return _checked(ranks, shape, _linears(ranks, shape, reduced, scattered), ladder, ladder)
    late = Late(ranks)
    linears = _linears(ranks, shape, reduced, scattered, late)
    return _checked(ranks, shape, linears, partial(overlapped_ladder, late), ladder)


# -- networks: divided or not is a matter of how their matrices are applied -------------------------------------------


def serial(x: Tensor, blocks: Sequence[Layer]) -> Tensor:
    """Every block adds to what it reads."""
    for block in blocks:
        x = x + block(x)
    return x


def ladder(x: Tensor, blocks: Sequence[Layer]) -> Tensor:
    """x_i = x_(i-1) + block_i(x_(i-2)), arXiv 2501.06589, algorithm 1."""
    states = [x, x]
    for block in blocks:
        states.append(states[-1] + block(states[-2]))
    return states[-1]


def overlapped_ladder(late: Late, x: Tensor, blocks: Sequence[Layer]) -> Tensor:
    """The same with every output added once its all-reduce is through, a block later."""
    coming = torch.zeros_like(x)
    for block in blocks:
        output = block(x)
        late.wait(left=1)
        x, coming = x + coming, output
    late.wait(left=0)
    return x + coming


def _blocks(shape: Network, weights: Sequence[Tensor], into: Linear, out_of: Linear, fuse: bool) -> list[Layer]:
    """Attention and MLP of every layer; one function for both where they are fused."""
    found: list[Layer] = []
    for begin in range(0, len(weights), PER_LAYER):
        qkv, out, up, down = weights[begin : begin + PER_LAYER]
        if fuse:
            found.append(partial(_both, shape, qkv, out, up, down, into, out_of))
        else:
            found.append(partial(_attention, shape, qkv, out, into, out_of))
            found.append(partial(_mlp, up, down, into, out_of))
    return found


def _attention(shape: Network, qkv: Tensor, out: Tensor, into: Linear, out_of: Linear, x: Tensor) -> Tensor:
    return out_of(_attend(shape, into(_norm(x), qkv.flatten(1))), out.flatten(0, 1))


def _mlp(up: Tensor, down: Tensor, into: Linear, out_of: Linear, x: Tensor) -> Tensor:
    return out_of(_gate(into(_norm(x), up.flatten(1))), down)


def _both(
    shape: Network, qkv: Tensor, out: Tensor, up: Tensor, down: Tensor, into: Linear, out_of: Linear, x: Tensor
) -> Tensor:
    """One product into both halves, one out of both."""
    widths = [qkv[0].numel(), up[0].numel()]
    both = into(_norm(x), torch.cat([qkv.flatten(1), up.flatten(1)], 1))
    heads, gates = torch.split(both, widths, 1)
    return out_of(torch.cat([_attend(shape, heads), _gate(gates)], 1), torch.cat([out.flatten(0, 1), down]))


def _norm(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])


def _attend(shape: Network, qkv: Tensor) -> Tensor:
    """Causal attention of some heads, shape (tokens x batch, 3 x heads x head_dim) to a third of that."""
    q, k, v = qkv.view(shape.tokens, shape.batch, 3, -1, shape.head_dim).permute(2, 1, 3, 0, 4)
    return scaled_dot_product_attention(q, k, v, is_causal=True).permute(2, 0, 1, 3).reshape(len(qkv), -1)


def _gate(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, 1)
    return silu(gate) * up


def _linears(
    ranks: Ranks,
    shape: Network,
    product: Product,
    scatter: Product,
    behind: Product | None = None,
    gather: Gather = gathered,
) -> tuple[Linear, Linear]:
    """Matrices at the beginning and at the end of a block.

    Parameters
    ----------
    ranks : Ranks
    shape : Network
    product, scatter : callable
        What the matrices do where every rank has all tokens, and where each has some.
    behind : callable, optional
        The first of them at the end of a block, where it is another.
    gather : callable
        How a matrix gets the tokens of all.
    """
    if shape.sequence_parallel:
        return (
            lambda x, w: applied(GatheredColumn, x, w, ranks, gather, scatter),
            lambda x, w: applied(ScatteredRow, x, w, ranks, gather, scatter),
        )
    last = behind or product
    return (
        lambda x, w: applied(ColumnParallel, x, w, ranks, product),
        lambda x, w: applied(RowParallel, x, w, ranks, last),
    )


def _checked(
    ranks: Ranks,
    shape: Network,
    linears: tuple[Linear, Linear],
    arranged: Stack = serial,
    plain: Stack = serial,
    fuse: bool = False,
) -> dict[str, float]:
    """A network of divided matrices against the whole one.

    Parameters
    ----------
    ranks : Ranks
    shape : Network
    linears : tuple of callable
        Divided matrices at the beginning and at the end of a block.
    arranged, plain : callable
        Of the residual stream and the blocks, divided and whole.
    fuse : bool
        Whether the halves of a layer are one block.
    """

    def divided(x: Tensor, *weights: Tensor) -> Tensor:
        return arranged(x, _blocks(shape, weights, *linears, fuse))

    def whole(x: Tensor, *weights: Tensor) -> Tensor:
        return plain(x, _blocks(shape, weights, torch.matmul, torch.matmul, fuse))

    def at(dim: int) -> Callable[[Tensor], Tensor]:
        return lambda w: w.chunk(ranks.size, dim)[ranks.rank]

    # Input and output matrices of attention and MLP; the dimension that is divided is heads, or inner width.
    sizes = [
        (shape.hidden, 3, shape.heads, shape.head_dim),
        (shape.heads, shape.head_dim, shape.hidden),
        (shape.hidden, 2, shape.ffn),
        (shape.ffn, shape.hidden),
    ] * shape.layers
    rows = (lambda x: x.chunk(ranks.size)[ranks.rank]) if shape.sequence_parallel else everything
    state = (shape.tokens * shape.batch, shape.hidden)
    x, outer = random(state, state)
    weights = random(*sizes, scale=shape.hidden**-0.5)
    shares = [rows, *[at(2), at(0), at(2), at(0)] * shape.layers]
    return compare(ranks, divided, whole, [x, *weights], outer, shares, rows)
