"""Softmax attention block by block, by hand: outputs with their log-sum-exps, merged, and gradients from them.

Tensors are (batch, tokens, heads, width); key/value heads serve equal groups of query heads. Recomputing scores from
log-sum-exps is FlashAttention's backward (arXiv 2205.14135, appendix B.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """Queries of one rank, by a range of its tokens, that meet keys of another, and the mask among them.

    Parameters
    ----------
    rows, keys : slice
    mask : Tensor or None
        True where a query sees a key, shape (rows, keys); None where all do.
    """

    rows: slice
    keys: slice
    mask: Tensor | None


ALL = slice(None)


def positions(layout: str, ranks: int, rank: int, tokens: int) -> Tensor:
    """Places in the sequence of a rank's tokens, in their order.

    Parameters
    ----------
    layout : str
        contiguous | zigzag | striped.
    ranks, rank, tokens : int
    """
    if layout == "striped":
        return torch.arange(tokens) * ranks + rank
    if layout == "contiguous":
        return torch.arange(tokens) + rank * tokens
    half = tokens // 2
    return torch.cat([torch.arange(half) + rank * half, torch.arange(half) + (2 * ranks - 1 - rank) * half])


def block_of(
    causal: bool, layout: str, ranks: int, tokens: int, queries: int, keys: int, window: int = 0
) -> Block | None:
    """What queries of one rank compute with keys of another; None where they see none.

    Parameters
    ----------
    causal : bool
    layout : str
    ranks, tokens : int
    queries, keys : int
        Ranks that own them.
    window : int
        Last tokens that a token sees; 0 for all before it.
    """
    if not causal:
        return Block(ALL, ALL, None)
    if queries == keys or layout == "striped" or window:
        mine, theirs = (positions(layout, ranks, rank, tokens) for rank in (queries, keys))
        mask = seen(mine, theirs, window)
        return Block(ALL, ALL, mask) if mask.any() else None
    if layout == "contiguous":
        return Block(ALL, ALL, None) if keys < queries else None
    half = slice(tokens // 2), slice(tokens // 2, None)
    return Block(ALL, half[0], None) if keys < queries else Block(half[1], ALL, None)


def seen(queries: Tensor, keys: Tensor, window: int = 0) -> Tensor:
    """Which keys queries at some places see under a causal mask, shape (queries, keys).

    Parameters
    ----------
    queries, keys : Tensor of int
        Places in the sequence.
    window : int
        Last tokens that a token sees, itself among them; 0 for all before it.
    """
    back = queries[:, None] - keys[None]
    return (back >= 0) & (back < window) if window else back >= 0


def whole(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int = 0) -> Tensor:
    """Attention in one piece, as torch has it."""
    from torch.nn.functional import scaled_dot_product_attention

    groups = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)))
    if not window:
        return scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
    places = torch.arange(q.shape[2], device=q.device)
    return scaled_dot_product_attention(q, k, v, seen(places, places, window)).transpose(1, 2)


def linear(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Linear attention as the square of scores it stands for."""
    scores = torch.einsum("bqgjd,bkgd->bgjqk", by_group(q, k.shape[2]), k)
    scores = scores.tril() if causal else scores
    return torch.einsum("bgjqk,bkgv->bqgjv", scores, v).flatten(2, 3)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, shapes (batch, rows, heads, width) and (batch, rows, heads)."""
    scores = _scores(q, k, mask)
    lse = scores.logsumexp(-1)
    out = torch.einsum("bgjqk,bkgv->bqgjv", _weights(scores, lse), v)
    return out.flatten(2, 3), lse.flatten(1, 2).transpose(1, 2)


def merge(out: Tensor, lse: Tensor, more: Tensor, its: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs over two sets of keys as one over both."""
    both = torch.logaddexp(lse, its)
    return out * (lse - both).exp()[..., None] + more * (its - both).exp()[..., None], both


def gradients(
    q: Tensor, k: Tensor, v: Tensor, outer: Tensor, lse: Tensor, delta: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values of a block.

    Parameters
    ----------
    q, k, v : Tensor
    outer : Tensor
        Gradient of the output over all keys, shape of the output.
    lse, delta : Tensor
        Log-sum-exp over all keys, and sum of output times its gradient; shape (batch, rows, heads).
    mask : Tensor, optional
    """
    groups = k.shape[2]
    scale: float = q.shape[-1] ** -0.5
    lse, delta = (by_group(x.transpose(1, 2), groups, 1) for x in (lse, delta))
    weights = _weights(_scores(q, k, mask), lse)
    split, slope = by_group(q, groups), by_group(outer, groups)
    values = torch.einsum("bgjqk,bqgjv->bkgv", weights, slope)
    change = weights * (torch.einsum("bqgjv,bkgv->bgjqk", slope, v) - delta[..., None]) * scale
    queries = torch.einsum("bgjqk,bkgd->bqgjd", change, k).flatten(2, 3)
    return queries, torch.einsum("bgjqk,bqgjd->bkgd", change, split), values


def by_group(x: Tensor, groups: int, dim: int = 2) -> Tensor:
    """Heads in the groups that share keys: one dimension becomes two."""
    return x.reshape(*x.shape[:dim], groups, -1, *x.shape[dim + 1 :])


def _scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Shape (batch, groups, heads of a group, rows, keys); minus infinity where masked."""
    split = by_group(q, k.shape[2])
    scale: float = q.shape[-1] ** -0.5
    scores: Tensor = torch.einsum("bqgjd,bkgd->bgjqk", split, k) * scale
    return scores if mask is None else scores.masked_fill(~mask.to(scores.device), float("-inf"))


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    """Softmax by a known log-sum-exp; rows that see nothing have none."""
    weights: Tensor = (scores - lse.masked_fill(lse == float("-inf"), 0.0)[..., None]).exp()
    return weights
