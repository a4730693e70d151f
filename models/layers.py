"""Transformer blocks as kernels on one tensor-parallel rank, forward and backward.

A block is what lies between two reductions: attention up to its output projection, or the MLP up
to its second matrix. Its last kernel is the row-parallel GEMM (forward) or the input-gradient GEMM
of the column-parallel matrix (backward) whose partial sums the ranks must add up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .architecture import Transformer
from .blocks import Attend, Block, Exchange, Tokens, Work
from .feed_forward import FeedForward
from .gradients import COPY, GRADIENT_STREAMS, shape_of
from .kernels import Kernel, Kernels, larger
from .plan import Division
from .routing.known import UNIFORM, Routing


class Layers(FeedForward):
    """Builds the blocks of a model for one way of dividing it.

    Parameters
    ----------
    model : Transformer
    kernels : Kernels
    tp : int or Division
        Tensor-parallel ranks, where nothing else is divided.
    training : bool
        Emit what a training stack runs: residual addition and norm as it fuses them, the loss.
    routing : Routing
        What is known of the experts tokens go to.
    """

    def __init__(
        self,
        model: Transformer,
        kernels: Kernels,
        tp: int | Division,
        training: bool = False,
        routing: Routing = UNIFORM,
    ):
        self.division = tp if isinstance(tp, Division) else Division(tp, etp=tp)
        self.model, self.kernels, self.tp, self.training = model, kernels, self.division.tp, training
        self.routing = routing
        self.heads = model.heads // self.tp
        self.kv_heads = larger(1, -(-model.kv_heads // self.tp))  # fewer KV heads than ranks: replicated

    def forward(self, layer: int, tokens: Tokens) -> tuple[Block, ...]:
        """Attention and MLP of one layer; a single block where the model itself puts them side by side."""
        pair = (self._attention(layer, tokens), self._mlp(layer, tokens))
        return (self.side_by_side(*pair),) if self.model.parallel_block else pair

    def side_by_side(self, attention: Block, mlp: Block) -> Block:
        """One block for both halves of a layer: shared norm, one fused input GEMM, outputs added.

        The PaLM arrangement (arXiv 2204.02311, section 2): one reduction per layer.
        """
        entry, branch = attention.kernels, mlp.kernels
        first = next(i for i, kernel in enumerate(entry) if isinstance(kernel, Kernel) and kernel.shape)
        other = next(i for i, kernel in enumerate(branch) if isinstance(kernel, Kernel) and kernel.shape)
        left, right = entry[first], branch[other]
        assert isinstance(left, Kernel)
        assert isinstance(right, Kernel)
        rows, width, depth = shape_of(left)
        _, other_width, other_depth = shape_of(right)
        if other_depth != depth:  # a router comes first: nothing to fuse with
            merged, rest = left, branch[other:]
        else:
            merged, rest = (
                self.kernels.gemm("fused input projection", rows, width + other_width, depth),
                branch[other + 1 :],
            )
        body = (
            *entry[:first],
            merged,
            *entry[first + 1 : -1],
            *rest[:-1],
            *attention.residual,
            entry[-1],
            rest[-1],
        )
        return replace(attention, name="layer", kernels=body)

    def embedding(self, tokens: Tokens) -> tuple[Work, ...]:
        """Look-up of this rank's part of the vocabulary, and the sum of the parts."""
        elements = tokens.rows * self.model.hidden
        found: list[Work] = [*self.kernels.elementwise("embedding", elements, tokens.rows, 2)]
        if self.kernels.software.shards_head:
            kind = "reduce_scatter" if self.division.sequence_parallel else "all_reduce"
            found.append(Exchange(kind, "tp", self._reduced(elements)))
        return tuple(found)

    def head(self, tokens: Tokens, every_token: bool) -> tuple[Work, ...]:
        """Final norm and output projection, and in training the loss."""
        rows = tokens.rows if every_token else tokens.batch
        width = self.model.vocab / (self.tp if self.kernels.software.shards_head else 1)
        found: list[Work] = [*self._norm(rows)]
        if self.division.sequence_parallel and self.kernels.software.shards_head:
            found.append(Exchange("all_gather", "tp", self._reduced(rows * self.model.hidden)))
        found.append(self.kernels.gemm("output projection", rows, width, self.model.hidden, wide=True))
        if self.training:
            # Of the loss's traffic, two parts are the forward pass's and three the backward's.
            streams = self.kernels.software.loss_bytes / (1 + GRADIENT_STREAMS) / self.kernels.size
            found += self.kernels.elementwise("loss", rows * width, rows, streams, exact=True)
        return tuple(found)

    # -- one half of a layer each ---------------------------------------------------------------

    def _serial(self, rows: float) -> float:
        """Rows of what is not divided over the tensor-parallel ranks, unless the sequence is."""
        return rows / self.tp if self.division.sequence_parallel else rows

    def _reduced(self, elements: float) -> float:
        """Bytes of an activation that the ranks add up; 0 for a single rank."""
        size: float = np.where(np.greater(self.tp, 1), elements * self.kernels.size, 0.0)[()]  # type: ignore[assignment]
        return size

    def _norm(self, rows: float) -> tuple[Kernel, ...]:
        """Residual addition and norm: fused they read both and write both."""
        rows = self._serial(rows)
        elements = rows * self.model.hidden
        if not self.training or self.kernels.software.fuses_residual:
            return self.kernels.elementwise("add + norm", elements, rows, 4)
        dropped = 0.5 if self.kernels.software.dropout else 0.0  # its mask has one byte an element
        return (
            *self.kernels.elementwise("residual add", elements, rows, 3 + dropped),
            *self.kernels.elementwise("norm", elements, rows, 2),
        )

    def _block(self, name: str, layer: int, kernels: list[Work], rows: float, divided: Any = True) -> Block:
        elements = rows * self.model.hidden
        summed: Any = np.where(divided, self._reduced(elements), 0.0)[()]
        if self.training and self.division.sequence_parallel and self.kernels.software.gather_copies:
            # One copy puts gathered parts in place, one puts partial sums in the order of their receivers.
            kernels = [*kernels[:-1], *self.kernels.streamed(COPY, 4 * summed), kernels[-1]]
        return Block(
            name,
            layer,
            tuple(kernels),
            summed,
            self.kernels.elementwise("residual add", self._serial(elements), rows, 3, exact=True),
            gather_bytes=summed if self.division.sequence_parallel else 0.0,
        )

    def _attention(self, layer: int, tokens: Tokens) -> Block:
        model, make, rows = self.model, self.kernels, tokens.rows
        window = model.window(layer)
        context = min(tokens.context, window) if window else tokens.context
        found: list[Work] = [*self._norm(rows)]
        if model.attention == "mla":
            found += self._latent_attention(tokens, context)
            value_dim = model.v_head_dim
        else:
            width = self.heads * model.head_dim + self.kv_heads * (model.head_dim + model.v_head_dim)
            found += self.product("qkv projection", rows, width, model.hidden)
            if not self.training or not model.positions:
                found += make.elementwise("rope + cache", rows * width, rows, 2)
            linear = model.is_linear(layer)
            found += self._attend(tokens, context, self.kv_heads, model.head_dim, model.v_head_dim, linear)
            value_dim = model.v_head_dim
        found += self.product("attention output", rows, model.hidden, self.heads * value_dim)
        return self._block("attention", layer, found, rows)

    def _attend(
        self,
        tokens: Tokens,
        context: float,
        kv_heads: float,
        head_dim: float,
        value_dim: float,
        linear: bool = False,
    ) -> tuple[Work, ...]:
        """The attention core; where it is linear or the sequence is divided, for a technique to arrange."""
        if linear or np.any(np.greater(self.division.cp, 1)):
            shape = (tokens.batch, tokens.query, context, self.heads, kv_heads, head_dim, value_dim)
            return (Attend(*shape, linear=linear, whole=tokens.context),)
        return self.kernels.attention(
            tokens.batch, tokens.query, context, self.heads, kv_heads, head_dim, value_dim, True
        )

    def _latent_attention(self, tokens: Tokens, context: float) -> list[Work]:
        """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

        Latents are replicated, heads divided. Decode attends to the shared latent directly (weights
        absorbed), prefill expands it.
        """
        model, make, rows = self.model, self.kernels, tokens.rows
        latent, rope = model.kv_lora_rank, model.qk_rope_head_dim
        query_width = self.heads * (model.qk_nope_head_dim + rope)
        found: list[Work] = [*self.product("latent down", rows, (model.q_lora_rank or 0) + latent + rope, model.hidden)]
        found += make.elementwise("latent norm + rope", rows * (latent + rope), rows, 2)
        found += self.product("query up", rows, query_width, model.q_lora_rank or model.hidden)
        if np.all(np.equal(tokens.query, 1)):
            found.append(make.gemm("absorb keys", rows, latent, model.qk_nope_head_dim, self.heads))
            found += make.attention(tokens.batch, 1, context, self.heads, 1, latent + rope, latent, True)
            found.append(make.gemm("absorb values", rows, model.v_head_dim, latent, self.heads))
        else:
            width = self.heads * (model.qk_nope_head_dim + model.v_head_dim)
            found += self.product("key + value up", rows, width, latent)
            found += self._attend(tokens, context, self.heads, model.qk_nope_head_dim + rope, model.v_head_dim)
        return found

    def _mlp(self, layer: int, tokens: Tokens) -> Block:
        rows, division = tokens.rows, self.division
        found: list[Work] = [*self._norm(rows)]
        if not self.model.is_moe(layer):
            return self._block("mlp", layer, [*found, *self.feed_forward(rows, self.model.ffn / self.tp)], rows)
        # Experts that are not divided as the other matrices work on a rank's own tokens.
        divided = np.logical_and(np.equal(division.etp, self.tp), np.equal(division.ep, 1))[()]
        found += self.mixture(np.where(divided, rows, rows / self.tp)[()], tokens.query)
        if not division.sequence_parallel:  # every rank goes on with all tokens
            whole: Any = np.where(divided, 0.0, self._reduced(rows * self.model.hidden))[()]
            found += [Exchange("all_gather", "tp", whole, alike=True)] if np.any(whole) else []
        return self._block("mlp", layer, found, rows, divided)
