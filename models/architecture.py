"""Shapes of a decoder-only transformer, and how many parameters they add up to.

Counts are of scalar weights as the published checkpoints store them: biases, norm weights and
attention sinks included, rotary tables and other constants not, no multi-token-prediction module.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..hardware.errors import InputError

STATE_BYTES = 4  # states of linear attention are kept and passed on in fp32 (Linear-MoE, its lasp2 code)


@dataclass(frozen=True, slots=True)
class Transformer:
    """Everything a performance model needs to know about a language model.

    Parameters
    ----------
    name : str
        What to call it in tables.
    family : str
        Hugging Face `model_type` it was read as.
    hidden : int
        Width of the residual stream.
    layers : int
        Number of decoder layers.
    heads, kv_heads : int
        Query heads, and key/value heads they share. With latent attention `kv_heads` equals
        `heads` and says nothing about the cache.
    head_dim, v_head_dim : int
        Width of one query or key head, and of one value head.
    ffn : int
        Inner width of a dense MLP; of no meaning when every layer is a mixture of experts.
    vocab : int
        Rows of the token embedding.
    gated : bool
        Three MLP matrices (SwiGLU and relatives) instead of two.
    tied_embeddings : bool
        The output projection is the token embedding.
    positions : int
        Learned position embeddings, 0 with rotary ones.
    max_positions : int
        Longest sequence the published model was made for [tokens].
    attention : str
        "gqa" (multi-head, grouped or multi-query) or "mla" (multi-head latent attention,
        DeepSeek-V2, arXiv 2405.04434).
    q_lora_rank : int or None
        Width of the query latent; None projects queries directly. Latent attention only.
    kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim : int
        Width of the cached key/value latent, and of the parts of a query head without and with
        rotary position. Latent attention only.
    attention_bias, attention_out_bias, mlp_bias : bool
        Biases of the query/key/value projections, of the output projection, of the MLP matrices.
        Latent attention has input biases on its down-projections only.
    router_bias : bool
        One bias per expert and layer in the router.
    qk_norm : bool
        A norm of `head_dim` weights each for queries and for keys.
    norm : str
        "rmsnorm" (weight) or "layernorm" (weight and bias).
    norms_per_layer : int
        Norms of width `hidden` in one layer.
    attention_sinks : bool
        One learned extra score per query head and layer.
    experts, experts_per_token, shared_experts : int
        Routed experts of a mixture layer, how many of them a token visits, and experts that every
        token visits.
    expert_ffn, shared_ffn : int
        Inner width of one expert, and of a shared one where it is another; 0 where it is the same.
    bottleneck : int
        Width at which tokens travel to routed experts and these work, where a projection all experts share goes down
        to it before and back up after (BigMac, arXiv 2502.16927); 0 for the width of the residual stream.
    expert_groups, groups_per_token : int
        Equal parts of the experts, and how many of them those of a token may lie in (group-limited routing,
        arXiv 2405.04434, section 2.2.2); 0 without such a limit.
    moe_layers : tuple of bool
        Which layers are mixtures of experts; empty when none is.
    windows : tuple of (int or None)
        Sliding-window length of each layer [tokens], None for full attention; empty when no layer
        has one.
    linear_layers : tuple of bool
        Which layers have linear attention: a state of head_dim x v_head_dim for every key/value head
        instead of scores and a cache; empty when none has. Weights are those of the softmax projections.
    parallel_block : bool
        Attention and MLP read the same input side by side (PaLM, arXiv 2204.02311).
    dtype : str
        Number format of the published weights: "bf16", "fp16", "fp32" or "fp8".

    Raises
    ------
    InputError
        If a per-layer tuple does not have one entry per layer.
    """

    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    ffn: int
    vocab: int
    gated: bool = True
    tied_embeddings: bool = False
    positions: int = 0
    max_positions: int = 0
    attention: str = "gqa"
    q_lora_rank: int | None = None
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    router_bias: bool = False
    qk_norm: bool = False
    norm: str = "rmsnorm"
    norms_per_layer: int = 2
    attention_sinks: bool = False
    experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    bottleneck: int = 0
    expert_groups: int = 0
    groups_per_token: int = 0
    moe_layers: tuple[bool, ...] = ()
    windows: tuple[int | None, ...] = ()
    linear_layers: tuple[bool, ...] = ()
    parallel_block: bool = False
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        """Check the per-layer tuples."""
        for key in ("moe_layers", "windows", "linear_layers"):
            entries = len(getattr(self, key))
            if entries not in (0, self.layers):
                raise InputError(
                    f"{self.name}: {key}: {entries} entries for {self.layers} layers (legal: none, or one per layer)"
                )

    def is_moe(self, layer: int) -> bool:
        """Whether `layer` (from 0) is a mixture of experts."""
        return bool(self.moe_layers) and self.moe_layers[layer]

    def window(self, layer: int) -> int | None:
        """Sliding-window length of `layer` [tokens], None for full attention."""
        return self.windows[layer] if self.windows else None

    def is_linear(self, layer: int) -> bool:
        """Whether the attention of `layer` (from 0) is linear."""
        return bool(self.linear_layers) and self.linear_layers[layer]

    def kind(self, layer: int) -> tuple[bool, int | None, bool]:
        """What tells layers of unlike cost apart: mixture, window, linear attention."""
        return self.is_moe(layer), self.window(layer), self.is_linear(layer)

    # -- parameters of one part -------------------------------------------------------------------

    def embedding_parameters(self) -> int:
        """Token embedding and learned positions."""
        return (self.vocab + self.positions) * self.hidden

    def head_parameters(self) -> int:
        """Output projection; 0 when it is the token embedding."""
        return 0 if self.tied_embeddings else self.vocab * self.hidden

    def attention_parameters(self) -> int:
        """Attention of one layer: projections, biases, sinks, and norms inside it."""
        projections = self._latent_inputs() if self.attention == "mla" else self._head_inputs()
        output = self._matrix(self.heads * self.v_head_dim, self.hidden, self.attention_out_bias)
        sinks = self.heads if self.attention_sinks else 0
        return projections + output + sinks

    def feed_forward_parameters(self, width: int, outer: int | None = None) -> int:
        """One MLP, or one expert, of inner width `width`; `outer` where it does not work on the residual stream."""
        outer = self.hidden if outer is None else outer
        up = self._matrix(outer, width, self.mlp_bias)
        return (2 if self.gated else 1) * up + self._matrix(width, outer, self.mlp_bias)

    @property
    def expert_width(self) -> int:
        """Width of a token on its way to routed experts and inside their first product."""
        return self.bottleneck or self.hidden

    @property
    def shared_width(self) -> int:
        """Inner width of all shared experts together."""
        return self.shared_experts * (self.shared_ffn or self.expert_ffn)

    def expert_parameters(self) -> int:
        """One routed expert of one layer; 0 without experts."""
        return self.feed_forward_parameters(self.expert_ffn, self.expert_width) if self.experts else 0

    def shared_parameters(self) -> int:
        """Shared experts of one layer."""
        return self.shared_experts * self.feed_forward_parameters(self.shared_ffn or self.expert_ffn)

    def projection_parameters(self) -> int:
        """Shared projections of one layer, down to the experts' bottleneck and back; 0 without one."""
        return 2 * self.hidden * self.bottleneck

    def mlp_parameters(self, layer: int) -> int:
        """MLP of `layer`: the dense one, or all routed and shared experts and projections without the router."""
        return self._mlp(self.experts) if self.is_moe(layer) else self.feed_forward_parameters(self.ffn)

    def active_mlp_parameters(self, layer: int) -> int:
        """Part of `mlp_parameters` that one token multiplies with."""
        return self._mlp(self.experts_per_token) if self.is_moe(layer) else self.feed_forward_parameters(self.ffn)

    def router_parameters(self, layer: int) -> int:
        """Router of `layer`; 0 in a dense layer."""
        if not self.is_moe(layer):
            return 0
        return self._matrix(self.hidden, self.experts, self.router_bias)

    def norm_parameters(self) -> int:
        """Norms of one layer on the residual stream."""
        return self.norms_per_layer * self.final_norm_parameters()

    def final_norm_parameters(self) -> int:
        """Norm before the output projection."""
        return self.hidden * (2 if self.norm == "layernorm" else 1)

    def layer_parameters(self, layer: int) -> int:
        """Everything in `layer` (from 0)."""
        return (
            self.attention_parameters()
            + self.mlp_parameters(layer)
            + self.router_parameters(layer)
            + self.norm_parameters()
        )

    # -- parameters of the model ------------------------------------------------------------------

    def breakdown(self) -> dict[str, int]:
        """Parameters of the whole model by part; the values add up to `parameters()`."""
        layers = range(self.layers)
        return {
            "embedding": self.embedding_parameters(),
            "attention": self.layers * self.attention_parameters(),
            "mlp": sum(map(self.mlp_parameters, layers)),
            "router": sum(map(self.router_parameters, layers)),
            "norm": self.layers * self.norm_parameters() + self.final_norm_parameters(),
            "head": self.head_parameters(),
        }

    def parameters(self) -> int:
        """All parameters of the model."""
        return sum(self.breakdown().values())

    def active_parameters(self, input_embedding: bool = True) -> int:
        """Parameters that one token passes through.

        Parameters
        ----------
        input_embedding : bool
            Count the whole embedding table although a token reads one row of it. Published counts
            differ: Qwen3's "A22B" does, gpt-oss's 5.1 B does not. A tied table always counts,
            as it is the output projection too.
        """
        parts = self.breakdown()
        parts["mlp"] = sum(map(self.active_mlp_parameters, range(self.layers)))
        if not input_embedding:
            parts["embedding"] = self.vocab * self.hidden if self.tied_embeddings else 0
        return sum(parts.values())

    # -- cache ------------------------------------------------------------------------------------

    def kv_values_per_token(self) -> int:
        """Numbers one layer caches for one token.

        Latent attention caches the latent and the one rotary key that all heads share.
        """
        if self.attention == "mla":
            return self.kv_lora_rank + self.qk_rope_head_dim
        return self.kv_heads * (self.head_dim + self.v_head_dim)

    def state_values(self) -> int:
        """Numbers one linear layer keeps for one sequence, however long."""
        return self.kv_heads * self.head_dim * self.v_head_dim

    def kv_bytes_per_token(self, dtype_bytes: float = 2, layer: int | None = None) -> float:
        """Cache of one token [B], in one layer or, by default, in all; none where attention is linear.

        Parameters
        ----------
        dtype_bytes : float
            Size of one number [B].
        layer : int, optional
            Layer (from 0). A window does not change it: it bounds how many tokens are kept.
        """
        which = range(self.layers) if layer is None else (layer,)
        return self.kv_values_per_token() * dtype_bytes * sum(not self.is_linear(index) for index in which)

    def kv_cache_bytes(self, tokens: int, dtype_bytes: float = 2) -> float:
        """Cache of one sequence of `tokens` tokens in all layers [B]; a window keeps its last.

        A linear layer keeps its state, in fp32.
        """
        found = 0.0
        for layer in range(self.layers):
            found += self.kv_bytes_per_token(dtype_bytes, layer) * min(tokens, self.window(layer) or tokens)
            found += STATE_BYTES * self.state_values() * self.is_linear(layer)
        return found

    # -- helpers ----------------------------------------------------------------------------------

    @staticmethod
    def _matrix(inputs: int, outputs: int, bias: bool) -> int:
        return inputs * outputs + (outputs if bias else 0)

    def _mlp(self, routed: int) -> int:
        return routed * self.expert_parameters() + self.shared_parameters() + self.projection_parameters()

    def _head_inputs(self) -> int:
        """Query, key and value projections, with the norms on queries and keys."""
        width = (self.heads + self.kv_heads) * self.head_dim + self.kv_heads * self.v_head_dim
        norms = 2 * self.head_dim if self.qk_norm else 0
        return self._matrix(self.hidden, width, self.attention_bias) + norms

    def _latent_inputs(self) -> int:
        """Down- and up-projections of latent attention, with the norms on the latents."""
        queries = self.heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if self.q_lora_rank is None:
            query = self.hidden * queries
        else:
            down = self._matrix(self.hidden, self.q_lora_rank, self.attention_bias)
            query = down + self.q_lora_rank + self.q_lora_rank * queries
        latent = self.kv_lora_rank + self.qk_rope_head_dim
        keys_and_values = self.heads * (self.qk_nope_head_dim + self.v_head_dim)
        return (
            query
            + self._matrix(self.hidden, latent, self.attention_bias)
            + self.kv_lora_rank
            + self.kv_lora_rank * keys_and_values
        )
