"""Shape of a decoder-only transformer, as its published configuration says it."""

from __future__ import annotations

from dataclasses import dataclass

from ..hardware.errors import InputError


@dataclass(frozen=True, slots=True)
class Shape:
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
