"""Sizes that a reference is executed on and its program is made of: the one thing both sides share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 7
ELEMENT = 8  # bytes of an element of activations: references compute and send in double precision


@dataclass(frozen=True, slots=True)
class Network:
    """A stack of Transformer layers that tensor-parallel ranks divide.

    Parameters
    ----------
    batch, tokens : int
        Sequences, and tokens of each.
    layers, hidden, heads, ffn : int
    chunks : int
        Row chunks of a product, where a technique has them.
    """

    batch: int
    tokens: int
    layers: int
    hidden: int
    heads: int
    ffn: int
    chunks: int = 1

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over sequences that ranks hold parts of.

    Parameters
    ----------
    batch, tokens : int
        Sequences, and tokens of each on one rank.
    heads, kv_heads, head_dim, value_dim : int
    causal : bool
    layout : str
        How tokens lie over the ranks: contiguous | zigzag | striped.
    degree : int
        Ranks that exchange heads, of a grid.
    pieces : int
        Messages that one is cut into, or 0 where three are packed in one.
    linear : tuple of bool
        Of each layer, whether its attention is linear.
    """

    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    causal: bool = True
    layout: str = "contiguous"
    degree: int = 1
    pieces: int = 1
    linear: tuple[bool, ...] = (False,)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Layers of experts that ranks divide, and where their tokens go.

    Parameters
    ----------
    tokens : int
        Of one rank.
    hidden, experts, top_k, ffn : int
    offsets : tuple of tuple of int
        Kinds of tokens: how many ranks further round each of its experts is, counted from one that moves on with
        every token; where there are layers, how far a token moves for each. Every rank then sends alike.
    nodes : int
        That the ranks are in, as many in each.
    still : int
        Kinds of tokens, the first so many, that do not move on: their experts are on the first ranks.
    width : int
        Elements of a token on its way, where they are fewer than hidden.
    degree : int
        Chunks, or halves, of the tokens.
    layers, heads, context : int
        Of a network that decodes: heads of its attention, and tokens of each sequence before.
    """

    tokens: int
    hidden: int
    experts: int
    top_k: int
    ffn: int
    offsets: tuple[tuple[int, ...], ...]
    nodes: int = 1
    still: int = 0
    width: int = 0
    degree: int = 1
    layers: int = 1
    heads: int = 1
    context: int = 1

    def table(self, ranks: int) -> NDArray[np.int64]:
        """Experts of every token, shape (ranks, tokens, layers, top_k), distinct within a token and layer."""
        import numpy as np

        each, kinds = self.experts // ranks, len(self.offsets)
        kind, turn = np.arange(self.tokens) % kinds, np.arange(self.tokens) // kinds
        offsets = np.array(self.offsets)[kind]
        if self.layers > 1:
            # The first expert is where the token moves to; the others are, from token to token, any of the rest.
            place = (np.arange(ranks)[:, None, None] + np.cumsum(offsets, 1)[None]) % ranks
            first = place * each + (turn[:, None] + np.arange(self.layers)) % each
            others = (turn[:, None] + np.arange(self.top_k - 1)) % (self.experts - 1)
            rest = (first[..., None] + 1 + others[:, None]) % self.experts
            return np.concatenate([first[..., None], rest], -1).astype(np.int64)
        place = (np.where(kind < self.still, 0, turn)[:, None] + offsets) % ranks
        # Of experts on one rank a token takes neighbours.
        nth = np.array([[row[:slot].tolist().count(row[slot]) for slot in range(self.top_k)] for row in offsets])
        chosen = place * each + (turn[:, None] // ranks + nth) % each
        every: NDArray[np.int64] = np.broadcast_to(chosen[None, :, None], (ranks, self.tokens, 1, self.top_k))
        return every
