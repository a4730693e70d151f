"""Transformer blocks as kernels on one tensor-parallel rank, forward and backward.

A block is what lies between two reductions: attention up to its output projection, or the MLP up
to its second matrix. Its last kernel is the row-parallel GEMM (forward) or the input-gradient GEMM
of the column-parallel matrix (backward) whose partial sums the ranks must add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .architecture import Transformer
from .kernels import Kernel, Kernels


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
class Block:
    """Kernels between two reductions, on one rank.

    Parameters
    ----------
    name : str
    layer : int
    kernels : tuple of Kernel
        In stream order; the last one makes the partial sums.
    output_bytes : float
        Size of the activation to add up over the ranks [B]; 0 when nothing is divided.
    residual : tuple of Kernel
        The stand-alone residual addition, for techniques that cannot fuse it into the next norm.
    deferred : tuple of Kernel
        Work nothing in this pass waits for (weight gradients).
    """

    name: str
    layer: int
    kernels: tuple[Kernel, ...]
    output_bytes: float
    residual: tuple[Kernel, ...] = ()
    deferred: tuple[Kernel, ...] = ()


class Layers:
    """Builds the blocks of a model for one tensor-parallel degree.

    Parameters
    ----------
    model : Transformer
    kernels : Kernels
    tp : int
        Tensor-parallel ranks; head counts and FFN widths are divided by it.
    """

    def __init__(self, model: Transformer, kernels: Kernels, tp: int):
        self.model, self.kernels, self.tp = model, kernels, tp
        self.heads = model.heads // tp
        self.kv_heads = max(1, -(-model.kv_heads // tp))  # fewer KV heads than ranks: replicated

    def forward(self, layer: int, tokens: Tokens) -> tuple[Block, ...]:
        """Attention and MLP of one layer; a single block where the model itself puts them side by side."""
        pair = (self._attention(layer, tokens), self._mlp(layer, tokens))
        return (self.side_by_side(*pair),) if self.model.parallel_block else pair

    def side_by_side(self, attention: Block, mlp: Block) -> Block:
        """One block for both halves of a layer: shared norm, one fused input GEMM, outputs added.

        The PaLM arrangement (arXiv 2204.02311, section 2): one reduction per layer.
        """
        entry, branch = attention.kernels, mlp.kernels
        first = next(i for i, kernel in enumerate(entry) if kernel.shape)
        other = next(i for i, kernel in enumerate(branch) if kernel.shape)
        rows, width, depth = _shape(entry[first])
        _, other_width, other_depth = _shape(branch[other])
        if other_depth != depth:  # a router comes first: nothing to fuse with
            merged, rest = (entry[first],), branch[other:]
        else:
            wide = self.kernels.gemm("fused input projection", rows, width + other_width, depth)
            merged, rest = (wide,), branch[other + 1 :]
        body = (
            *entry[:first],
            *merged,
            *entry[first + 1 : -1],
            *rest[:-1],
            *attention.residual,
            entry[-1],
            rest[-1],
        )
        return replace(attention, name="layer", kernels=body)

    def head(self, tokens: Tokens, every_token: bool) -> tuple[Kernel, ...]:
        """Final norm and output projection."""
        rows = tokens.rows if every_token else tokens.batch
        width = self.model.vocab / (self.tp if self.kernels.software.shards_head else 1)
        return (
            *self._norm(rows),
            self.kernels.gemm("output projection", rows, width, self.model.hidden),
        )

    # -- one half of a layer each ---------------------------------------------------------------

    def _norm(self, rows: float) -> tuple[Kernel, ...]:
        """Residual addition fused with the norm: reads both, writes both."""
        return self.kernels.elementwise("add + norm", rows * self.model.hidden, rows, 4)

    def _block(self, name: str, layer: int, kernels: list[Kernel], rows: float) -> Block:
        elements = rows * self.model.hidden
        return Block(
            name,
            layer,
            tuple(kernels),
            elements * self.kernels.size if self.tp > 1 else 0.0,
            self.kernels.elementwise("residual add", elements, rows, 3),
        )

    def _attention(self, layer: int, tokens: Tokens) -> Block:
        model, make, rows = self.model, self.kernels, tokens.rows
        window = model.window(layer)
        context = min(tokens.context, window) if window else tokens.context
        found: list[Kernel] = [*self._norm(rows)]
        if model.attention == "mla":
            found += self._latent_attention(tokens, context)
            value_dim = model.v_head_dim
        else:
            width = self.heads * model.head_dim + self.kv_heads * (model.head_dim + model.v_head_dim)
            found.append(make.gemm("qkv projection", rows, width, model.hidden))
            found += make.elementwise("rope + cache", rows * width, rows, 2)
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
        found.append(make.gemm("attention output", rows, model.hidden, self.heads * value_dim))
        return self._block("attention", layer, found, rows)

    def _latent_attention(self, tokens: Tokens, context: int) -> list[Kernel]:
        """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

        Latents are replicated, heads divided. Decode attends to the shared latent directly (weights
        absorbed), prefill expands it.
        """
        model, make, rows = self.model, self.kernels, tokens.rows
        latent, rope = model.kv_lora_rank, model.qk_rope_head_dim
        query_width = self.heads * (model.qk_nope_head_dim + rope)
        found = [make.gemm("latent down", rows, (model.q_lora_rank or 0) + latent + rope, model.hidden)]
        found += make.elementwise("latent norm + rope", rows * (latent + rope), rows, 2)
        found.append(make.gemm("query up", rows, query_width, model.q_lora_rank or model.hidden))
        if tokens.query == 1:
            found.append(make.gemm("absorb keys", rows, latent, model.qk_nope_head_dim, self.heads))
            found += make.attention(tokens.batch, 1, context, self.heads, 1, latent + rope, latent, True)
            found.append(make.gemm("absorb values", rows, model.v_head_dim, latent, self.heads))
        else:
            width = self.heads * (model.qk_nope_head_dim + model.v_head_dim)
            found.append(make.gemm("key + value up", rows, width, latent))
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
        model, rows = self.model, tokens.rows
        found: list[Kernel] = [*self._norm(rows)]
        if model.is_moe(layer):
            found += self._experts(rows)
        else:
            found += self._feed_forward(rows, model.ffn / self.tp)
        return self._block("mlp", layer, found, rows)

    def _feed_forward(self, rows: float, width: float, groups: float = 1, name: str = "mlp") -> list[Kernel]:
        make, fan = self.kernels, 2 if self.model.gated else 1
        per_group = rows / groups
        return [
            make.gemm(f"{name} up", per_group, fan * width, self.model.hidden, groups),
            *make.elementwise("activation", rows * width, rows, fan + 1),
            make.gemm(f"{name} down", per_group, self.model.hidden, width, groups),
        ]

    def _experts(self, rows: float) -> list[Kernel]:
        """Routed and shared experts, every expert divided over the ranks; balanced routing."""
        model, make = self.model, self.kernels
        pairs = rows * model.experts_per_token
        # Expected number of experts that at least one token picks.
        touched = model.experts * (1 - (1 - model.experts_per_token / model.experts) ** rows)
        found = [
            make.gemm("router", rows, model.experts, model.hidden),
            *make.elementwise("dispatch", pairs * model.hidden, rows, 2),
        ]
        if model.shared_experts:
            found += self._feed_forward(rows, model.shared_experts * model.expert_ffn / self.tp, name="shared expert")
        found += self._feed_forward(pairs, model.expert_ffn / self.tp, touched, "expert")
        return [*found, *make.elementwise("combine", pairs * model.hidden, rows, 2)]

    # -- backward ---------------------------------------------------------------------------------

    def backward(self, block: Block, recompute: str) -> Block:
        """Backward of a forward block: input gradients in reverse order, weight gradients deferred.

        The last kernel is the input gradient of the block's column-parallel GEMM, whose partial sums
        the ranks add up (Megatron-LM's conjugate operator f, arXiv 1909.08053 section 3).
        """
        inputs = self.backward_kernels(block.kernels, weights=False)
        last = max(i for i, kernel in enumerate(inputs) if kernel.shape is not None)
        inputs = (*inputs[:last], *inputs[last + 1 :], inputs[last])
        again: tuple[Kernel, ...] = ()
        if recompute == "full":
            again = block.kernels
        elif recompute == "selective":  # the attention core only, Korthikanti et al. section 5
            again = tuple(k for k in block.kernels if _is_attention(k))
        deferred = tuple(self._gradient(k, "weight") for k in reversed(block.kernels) if k.shape)
        return replace(block, name=f"{block.name} backward", kernels=(*again, *inputs), deferred=deferred)

    def backward_kernels(self, kernels: tuple[Kernel, ...], weights: bool = True) -> tuple[Kernel, ...]:
        """Gradients of kernels in reverse order: of their inputs, and of their weights if asked."""
        found = []
        for kernel in reversed(kernels):
            if kernel.shape is not None:
                found.append(self._gradient(kernel, "input"))
                found += [self._gradient(kernel, "weight")] if weights else []
            elif _is_attention(kernel):
                found.append(_scaled(kernel, FLASH_BACKWARD if kernel.name == "attention" else 2.0))
            else:
                found.append(_scaled(kernel, 1.5))  # reads the outer gradient besides
        return tuple(found)

    def _gradient(self, kernel: Kernel, of: str) -> Kernel:
        m, n, k = _shape(kernel)
        groups = kernel.flops / (2 * m * n * k)
        shape = (m, k, n) if of == "input" else (k, n, m)
        return self.kernels.gemm(f"{kernel.name} {of} gradient", *shape, groups)


def _shape(kernel: Kernel) -> tuple[float, float, float]:
    assert kernel.shape is not None, f"{kernel.name} is no GEMM"
    return kernel.shape


def _is_attention(kernel: Kernel) -> bool:
    return kernel.shape is None and kernel.name.startswith("attention")


FLASH_BACKWARD = 2.5  # five GEMMs against two, arXiv 2205.14135


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    return replace(
        kernel,
        name=f"{kernel.name} backward",
        flops=kernel.flops * factor,
        memory_bytes=kernel.memory_bytes * factor,
        time=kernel.time * factor,
    )
