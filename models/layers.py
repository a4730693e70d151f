"""Transformer blocks as kernels on one tensor-parallel rank, forward and backward.

A block is what lies between two reductions: attention up to its output projection, or the MLP up
to its second matrix. Its last kernel is the row-parallel GEMM (forward) or the input-gradient GEMM
of the column-parallel matrix (backward) whose partial sums the ranks must add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .architecture import Transformer
from .kernels import QUANTISE, Kernel, Kernels, larger
from .plan import Division


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens one rank works on: `batch` sequences of `query` new tokens seeing `context` keys."""

    batch: int
    query: int
    context: int

    @property
    def rows(self) -> int:
        """Rows of every activation matrix."""
        return self.batch * self.query


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective inside a block, along another axis than the sum at its end.

    Parameters
    ----------
    kind : str
        One of the simulator's kinds of collective.
    axis : str
        Process group: tp | cp | ep.
    size : float
        Bytes, by the convention of the kind [B].
    covered : bool
        Whether it runs beside the kernel that follows it; else that waits.
    """

    kind: str
    axis: str
    size: float
    covered: bool = False

    @property
    def shape(self) -> None:
        """It is no product."""
        return None


Work = Kernel | Exchange


@dataclass(frozen=True, slots=True)
class Block:
    """Kernels between two reductions, on one rank.

    Parameters
    ----------
    name : str
    layer : int
    kernels : tuple of Kernel or Exchange
        In stream order; the last product makes the partial sums.
    output_bytes : float
        Size of the activation to add up over the ranks [B]; 0 when nothing is divided.
    residual : tuple of Kernel
        The stand-alone residual addition, for techniques that cannot fuse it into the next norm.
    deferred : tuple of Kernel
        Work nothing in this pass waits for (weight gradients).
    gather_bytes : float
        Size of the input where the ranks hold a part of it each and gather it first (sequence
        parallelism) [B]; the sum at the end is scattered over the ranks then.
    """

    name: str
    layer: int
    kernels: tuple[Work, ...]
    output_bytes: float
    residual: tuple[Kernel, ...] = ()
    deferred: tuple[Kernel, ...] = ()
    gather_bytes: float = 0.0


class Layers:
    """Builds the blocks of a model for one way of dividing it.

    Parameters
    ----------
    model : Transformer
    kernels : Kernels
    tp : int or Division
        Tensor-parallel ranks, where nothing else is divided.
    training : bool
        Emit what a training stack runs: residual addition and norm as it fuses them, the loss.
    """

    def __init__(self, model: Transformer, kernels: Kernels, tp: int | Division, training: bool = False):
        self.division = tp if isinstance(tp, Division) else Division(tp, etp=tp)
        self.model, self.kernels, self.tp, self.training = model, kernels, self.division.tp, training
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
        rows, width, depth = _shape(left)
        _, other_width, other_depth = _shape(right)
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
            found += self.kernels.elementwise("loss", rows * width, rows, streams)
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

    def _product(self, name: str, m: float, n: float, k: float, groups: float = 1) -> list[Work]:
        """A product, and the conversion of its left operand to a narrow format before."""
        make = self.kernels
        before = make.quantise(groups * m * k) if make.dtype != make.wide else ()
        return [*before, make.gemm(name, m, n, k, groups)]

    def _block(self, name: str, layer: int, kernels: list[Work], rows: float, divided: bool = True) -> Block:
        elements = rows * self.model.hidden
        summed = self._reduced(elements) if divided else 0.0
        return Block(
            name,
            layer,
            tuple(kernels),
            summed,
            self.kernels.elementwise("residual add", self._serial(elements), rows, 3),
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
            found += self._product("qkv projection", rows, width, model.hidden)
            if not self.training or model.family != "gpt2":
                found += make.elementwise("rope + cache", rows * width, rows, 2)
            found += self._gathered(tokens, context, self.kv_heads * (model.head_dim + model.v_head_dim))
            found += make.attention(
                tokens.batch,
                tokens.query,
                context,
                self.heads,
                self.kv_heads,
                model.head_dim,
                model.v_head_dim,
                True,
            )
            value_dim = model.v_head_dim
        found += self._product("attention output", rows, model.hidden, self.heads * value_dim)
        return self._block("attention", layer, found, rows)

    def _gathered(self, tokens: Tokens, context: float, width: float) -> list[Work]:
        """Keys and values of the other context-parallel ranks, passed on while attention runs."""
        if np.all(np.equal(self.division.cp, 1)):
            return []
        return [Exchange("all_gather", "cp", tokens.batch * context * width * self.kernels.size, covered=True)]

    def _latent_attention(self, tokens: Tokens, context: int) -> list[Work]:
        """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

        Latents are replicated, heads divided. Decode attends to the shared latent directly (weights
        absorbed), prefill expands it.
        """
        model, make, rows = self.model, self.kernels, tokens.rows
        latent, rope = model.kv_lora_rank, model.qk_rope_head_dim
        query_width = self.heads * (model.qk_nope_head_dim + rope)
        found = self._product("latent down", rows, (model.q_lora_rank or 0) + latent + rope, model.hidden)
        found += make.elementwise("latent norm + rope", rows * (latent + rope), rows, 2)
        found += self._product("query up", rows, query_width, model.q_lora_rank or model.hidden)
        if tokens.query == 1:
            found.append(make.gemm("absorb keys", rows, latent, model.qk_nope_head_dim, self.heads))
            found += make.attention(tokens.batch, 1, context, self.heads, 1, latent + rope, latent, True)
            found.append(make.gemm("absorb values", rows, model.v_head_dim, latent, self.heads))
        else:
            width = self.heads * (model.qk_nope_head_dim + model.v_head_dim)
            found += self._product("key + value up", rows, width, latent)
            found += self._gathered(tokens, context, self.heads * (model.qk_nope_head_dim + rope + model.v_head_dim))
            found += make.attention(
                tokens.batch,
                tokens.query,
                context,
                self.heads,
                self.heads,
                model.qk_nope_head_dim + rope,
                model.v_head_dim,
                True,
            )
        return found

    def _mlp(self, layer: int, tokens: Tokens) -> Block:
        model, rows, division = self.model, tokens.rows, self.division
        found: list[Work] = [*self._norm(rows)]
        if not model.is_moe(layer):
            return self._block("mlp", layer, found + self._feed_forward(rows, model.ffn / self.tp), rows)
        # Experts that are not divided as the other matrices work on a rank's own tokens.
        divided = bool(np.all(np.equal(division.etp, self.tp)))
        found += self._experts(rows if divided else rows / self.tp)
        return self._block("mlp", layer, found, rows, divided)

    def _feed_forward(self, rows: float, width: float, groups: float = 1, name: str = "mlp") -> list[Work]:
        make, fan = self.kernels, 2 if self.model.gated else 1
        per_group = rows / groups
        return [
            *self._product(f"{name} up", per_group, fan * width, self.model.hidden, groups),
            *make.elementwise("activation", rows * width, rows, fan + 1),
            *self._product(f"{name} down", per_group, self.model.hidden, width, groups),
        ]

    def _experts(self, rows: float) -> list[Work]:
        """Routed and shared experts, every expert divided over `etp` ranks; balanced routing."""
        model, make, division = self.model, self.kernels, self.division
        pairs = rows * model.experts_per_token
        # Expected number of a rank's experts that at least one token of its group picks.
        share = model.experts_per_token / model.experts
        touched = model.experts / division.ep * (1 - (1 - share) ** (rows * division.ep))
        found: list[Work] = [
            make.gemm("router", rows, model.experts, model.hidden, wide=True),
            *make.elementwise("dispatch", pairs * model.hidden, rows, 2),
        ]
        if model.shared_experts:
            width = model.shared_experts * model.expert_ffn / division.etp
            found += self._feed_forward(rows, width, name="shared expert")
        crossing: list[Work] = []
        if np.any(np.greater(division.ep, 1)):
            crossing = [Exchange("all_to_all", "ep", pairs * model.hidden * make.size)]
        found += [*crossing, *self._feed_forward(pairs, model.expert_ffn / division.etp, touched, "expert"), *crossing]
        return [*found, *make.elementwise("combine", pairs * model.hidden, rows, 2)]

    # -- backward ---------------------------------------------------------------------------------

    def backward(self, block: Block, again: tuple[Work, ...] = ()) -> Block:
        """Backward of a forward block: input gradients in reverse order, weight gradients deferred.

        The last kernel is the input gradient of the block's column-parallel GEMM, whose partial sums
        the ranks add up (Megatron-LM's conjugate operator f, arXiv 1909.08053 section 3).

        Parameters
        ----------
        block : Block
        again : tuple of Kernel
            Forward work to repeat first.
        """
        inputs = self.backward_kernels(block.kernels, weights=False)
        last = max(i for i, kernel in enumerate(inputs) if isinstance(kernel, Kernel) and kernel.shape is not None)
        inputs = (*inputs[:last], *inputs[last + 1 :], inputs[last])
        deferred: list[Kernel] = []
        for kernel in reversed(block.kernels):
            if isinstance(kernel, Kernel) and kernel.shape and not kernel.core:
                deferred += self._weight_gradient(kernel)
        # The input is gathered once more for the weight gradients, under the input gradients.
        regather = (
            (Exchange("all_gather", "tp", block.gather_bytes, covered=True),) if np.any(block.gather_bytes) else ()
        )
        kernels = (*again, *regather, *inputs)
        return replace(block, name=f"{block.name} backward", kernels=kernels, deferred=tuple(deferred))

    @staticmethod
    def saved(block: Block) -> Block:
        """What of a block makes activations that its backward pass reads: all but the last product."""
        last = max(i for i, kernel in enumerate(block.kernels) if isinstance(kernel, Kernel) and kernel.shape)
        return replace(block, kernels=block.kernels[:last], output_bytes=0.0)

    def repeated(self, block: Block) -> tuple[Work, ...]:
        """What selective recomputation runs again before the backward of a block."""
        kernels = [kernel for kernel in block.kernels if isinstance(kernel, Kernel)]
        if self.kernels.software.selective == "attention":  # Korthikanti et al., section 5
            return tuple(kernel for kernel in kernels if kernel.core)
        products = [kernel for kernel in kernels if kernel.shape and not kernel.core]
        kept = products[::2]
        return tuple(kernel for kernel in kernels if not kernel.core and kernel not in kept)

    def backward_kernels(self, kernels: tuple[Work, ...], weights: bool = True) -> tuple[Work, ...]:
        """Gradients of kernels in reverse order: of their inputs, and of their weights if asked."""
        found: list[Work] = []
        for kernel in reversed(kernels):
            if isinstance(kernel, Exchange):
                found.append(replace(kernel, kind=ADJOINT[kernel.kind], size=kernel.size * (1 + kernel.covered)))
            elif kernel.name == QUANTISE:
                continue  # an operand of the product after it, whose own gradients bring theirs
            elif kernel.shape is not None and kernel.core:
                found += [self._gradient(kernel, "input"), self._gradient(kernel, "weight")]
            elif kernel.shape is not None:
                m, n, _ = kernel.shape
                if self.kernels.dtype != self.kernels.wide and kernel.narrow:
                    found += self.kernels.quantise(kernel.groups * m * n)
                found.append(self._gradient(kernel, "input"))
                found += self._weight_gradient(kernel) if weights else []
            elif kernel.core and kernel.name == "attention":
                found.append(_scaled(kernel, self.kernels.software.flash_backward))
            elif kernel.core and self.kernels.software.attention == "math":
                found.append(_scaled(kernel, 2.0))
            else:
                found.append(_scaled(kernel, GRADIENT_STREAMS))
        return tuple(found)

    def _gradient(self, kernel: Kernel, of: str) -> Kernel:
        m, n, k = _shape(kernel)
        shape = (m, k, n) if of == "input" else (k, n, m)
        made = self.kernels.gemm(f"{kernel.name} {of} gradient", *shape, kernel.groups, wide=not kernel.narrow)
        return replace(made, core=kernel.core)

    def _weight_gradient(self, kernel: Kernel) -> list[Kernel]:
        """Product for a weight gradient, and its addition to those of micro-batches before."""
        _, n, k = _shape(kernel)
        extra = self.kernels.software.accumulate_bytes
        if not extra:
            return [self._gradient(kernel, "weight")]
        added = self.kernels.streamed("accumulate gradient", extra * kernel.groups * n * k)
        return [self._gradient(kernel, "weight"), *added]


def _shape(kernel: Kernel) -> tuple[float, float, float]:
    assert kernel.shape is not None, f"{kernel.name} is no GEMM"
    return kernel.shape


# A streaming kernel's backward reads the outer gradient besides.
GRADIENT_STREAMS = 1.5
ADJOINT = {
    "all_gather": "reduce_scatter",
    "reduce_scatter": "all_gather",
    "all_reduce": "all_reduce",
    "all_to_all": "all_to_all",
}


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    return replace(
        kernel,
        name=f"{kernel.name} backward",
        flops=kernel.flops * factor,
        memory_bytes=kernel.memory_bytes * factor,
        time=kernel.time * factor,
    )
