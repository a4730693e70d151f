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
    sequence_parallel : bool
        Whether norms and residuals are divided over the ranks by tokens.
    """

    batch: int
    tokens: int
    layers: int
    hidden: int
    heads: int
    ffn: int
    chunks: int = 1
    sequence_parallel: bool = False

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
    window : int
        Last tokens that a token sees, itself among them; 0 for all before it.
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
    window: int = 0


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
        every token; where a network decodes, how far a token moves for each layer. Every rank then sends alike.
    nodes : int
        That the ranks are in, as many in each.
    still : int
        Kinds of tokens, the first so many, that do not move on: their experts are on the first ranks.
    width : int
        Elements of a token on its way, where they are fewer than hidden.
    degree : int
        Chunks, or halves, of the tokens.
    layers, heads : int
        Of a network that infers, and of its attention.
    context : int
        Tokens of each sequence before, where a network decodes one of each; 0 where it reads prompts.
    trained : bool
        Whether there is a backward pass.
    shared : int
        Inner width of an expert that every token visits where it is; 0 for none.
    capacity : float
        Room of an expert for tokens of one rank and chunk, over their mean; 0 for all that come.
    tp, etp : int
        Tensor-parallel ranks, and those that divide each expert: all of them, or 1.
    scattered : bool
        Whether tensor-parallel ranks have tokens of their own each between layers, or all have those of all.
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
    context: int = 0
    trained: bool = True
    shared: int = 0
    capacity: float = 0.0
    tp: int = 1
    etp: int = 1
    scattered: bool = True

    def table(self, ranks: int) -> NDArray[np.int64]:
        """Experts of every token, shape (ranks, tokens, layers, top_k), distinct within a token and layer."""
        import numpy as np

        parts = ranks // self.etp
        each, kinds = self.experts // parts, len(self.offsets)
        kind, turn = np.arange(self.tokens) % kinds, np.arange(self.tokens) // kinds
        offsets = np.array(self.offsets)[kind]
        if self.context:
            # The first expert is where the token moves to; the others are, from token to token, any of the rest.
            place = (np.arange(ranks)[:, None, None] + np.cumsum(offsets, 1)[None]) % ranks
            first = place * each + (turn[:, None] + np.arange(self.layers)) % each
            others = (turn[:, None] + np.arange(self.top_k - 1)) % (self.experts - 1)
            rest = (first[..., None] + 1 + others[:, None]) % self.experts
            return np.concatenate([first[..., None], rest], -1).astype(np.int64)
        place = (np.where(kind < self.still, 0, turn)[:, None] + offsets) % parts
        # Of experts on one rank a token takes neighbours.
        nth = np.array([[row[:slot].tolist().count(row[slot]) for slot in range(self.top_k)] for row in offsets])
        chosen = place * each + (turn[:, None] // parts + nth) % each
        size = (ranks, self.tokens, self.layers, self.top_k)
        every: NDArray[np.int64] = np.broadcast_to(chosen[None, :, None], size)
        return every
