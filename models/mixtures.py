"""Mixture-of-experts families as Hugging Face writes them: keys, defaults, legal ranges, meaning.

As in `decoders`, names and defaults are those of transformers 5.23.0. Three names of the expert
count are in use; each family accepts all of them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from .decoders import (
    Decoder,
    Gpt2,
    Heads,
    HeadWidth,
    LayerIndex,
    Layers,
    LayerType,
    Rotary,
    Tokens,
    Vocab,
    Width,
    check_layer_types,
)

Experts = Annotated[int, Field(ge=1, le=65_536)]


def check_top_k(top_k: int, experts: int) -> None:
    """Refuse more experts a token than there are."""
    if top_k > experts:
        raise ValueError(f"num_experts_per_tok {top_k} is more than there are experts (legal: 1 to {experts})")


class Mixture(Rotary):
    """Keys that mixtures of experts share; each family names its expert count in its own way."""

    num_experts_per_tok: Experts = 2
    expert_bottleneck: Width | None = None  # our own key: BigMac's, see `Transformer.bottleneck`

    def _experts(self) -> int:
        raise NotImplementedError

    def _is_moe(self, layer: int) -> bool:
        return True

    @model_validator(mode="after")
    def _enough_experts(self) -> Mixture:
        check_top_k(self.num_experts_per_tok, self._experts())
        return self

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        moe_layers = tuple(self._is_moe(layer) for layer in range(self.num_hidden_layers))
        return super().shape() | {
            "experts": self._experts(),
            "experts_per_token": self.num_experts_per_tok,
            "expert_ffn": self.intermediate_size,
            "bottleneck": self.expert_bottleneck or 0,
            "moe_layers": moe_layers if any(moe_layers) else (),
        }


class Gpt2Moe(Gpt2):
    """GPT with experts for its MLPs, as Megatron-DeepSpeed trains it; every `moe_layer_freq`-th layer a mixture.

    No published configuration class: the name is ours, the keys are those of the others.
    """

    aliases: ClassVar[dict[str, str]] = {
        **{key: name for key, name in Gpt2.aliases.items() if key != "intermediate_size"},
        "num_experts": "num_local_experts", "n_routed_experts": "num_local_experts",
    }  # fmt: skip

    num_local_experts: Experts = 64
    num_experts_per_tok: Experts = 1
    moe_intermediate_size: Width | None = None
    moe_layer_freq: Layers = 1
    expert_bottleneck: Width | None = None

    @model_validator(mode="after")
    def _enough_experts(self) -> Gpt2Moe:
        check_top_k(self.num_experts_per_tok, self.num_local_experts)
        return self

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        moe_layers = tuple((layer + 1) % self.moe_layer_freq == 0 for layer in range(self.n_layer))
        return super().shape() | {
            "experts": self.num_local_experts,
            "experts_per_token": self.num_experts_per_tok,
            "expert_ffn": self.moe_intermediate_size or self.n_inner or 4 * self.n_embd,
            "bottleneck": self.expert_bottleneck or 0,
            "moe_layers": moe_layers if any(moe_layers) else (),
        }


class Mixtral(Mixture):
    """Mixtral: every layer a mixture, `intermediate_size` is one expert's."""

    aliases: ClassVar[dict[str, str]] = {
        **Decoder.aliases, "num_experts": "num_local_experts",
        "n_routed_experts": "num_local_experts",
    }  # fmt: skip

    num_key_value_heads: Heads | None = 8
    head_dim: HeadWidth | None = None
    sliding_window: Tokens | None = None
    num_local_experts: Experts = 8

    def _experts(self) -> int:
        return self.num_local_experts

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        slides = [True] * self.num_hidden_layers
        return super().shape() | {"windows": self._windows(self.sliding_window, slides)}


class Qwen3Moe(Mixture):
    """Qwen3 mixture: some layers may stay dense, with a width of their own."""

    aliases: ClassVar[dict[str, str]] = {
        **Decoder.aliases, "num_local_experts": "num_experts", "n_routed_experts": "num_experts",
    }  # fmt: skip

    vocab_size: Vocab = 151936
    hidden_size: Width = 2048
    intermediate_size: Width = 6144
    num_hidden_layers: Layers = 24
    num_key_value_heads: Heads | None = 4
    max_position_embeddings: Tokens = 32768
    head_dim: HeadWidth | None = None
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Tokens | None = 4096
    decoder_sparse_step: Layers = 1
    mlp_only_layers: list[LayerIndex] | None = None
    moe_intermediate_size: Width = 768
    num_experts: Experts = 128
    num_experts_per_tok: Experts = 8

    def _experts(self) -> int:
        return self.num_experts

    def _is_moe(self, layer: int) -> bool:
        sparse = (layer + 1) % self.decoder_sparse_step == 0
        return sparse and layer not in (self.mlp_only_layers or ())

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        length = self.sliding_window if self.use_sliding_window else None
        return super().shape() | {
            "attention_bias": self.attention_bias,
            "attention_out_bias": self.attention_bias,
            "qk_norm": True,
            "expert_ffn": self.moe_intermediate_size,
            "windows": self._windows(length, [True] * self.num_hidden_layers),
        }


class DeepseekV3(Mixture):
    """DeepSeek-V3: latent attention, shared expert, the first layers dense."""

    aliases: ClassVar[dict[str, str]] = {
        **Decoder.aliases, "num_local_experts": "n_routed_experts",
        "num_experts": "n_routed_experts",
    }  # fmt: skip

    vocab_size: Vocab = 129280
    hidden_size: Width = 7168
    intermediate_size: Width = 18432
    num_hidden_layers: Layers = 61
    num_attention_heads: Heads = 128
    num_key_value_heads: Heads | None = 128
    max_position_embeddings: Tokens = 4096
    attention_bias: bool = False
    moe_intermediate_size: Width = 2048
    n_shared_experts: Annotated[int, Field(ge=0, le=65_536)] | None = 1
    n_routed_experts: Experts = 256
    num_experts_per_tok: Experts = 8
    n_group: Annotated[int, Field(ge=1, le=65_536)] | None = None
    topk_group: Annotated[int, Field(ge=1, le=65_536)] | None = None
    first_k_dense_replace: LayerIndex | None = 3
    moe_layer_freq: Layers = 1  # of the released file; the class has every later layer a mixture
    q_lora_rank: Width | None = 1536
    kv_lora_rank: Width = 512
    qk_nope_head_dim: HeadWidth = 128
    qk_rope_head_dim: HeadWidth = 64
    v_head_dim: HeadWidth = 128

    def _head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def _experts(self) -> int:
        return self.n_routed_experts

    @model_validator(mode="after")
    def _groups_hold_experts(self) -> DeepseekV3:
        groups, most = self.n_group or 1, self.topk_group or 1
        if self.n_routed_experts % groups:
            raise ValueError(
                f"n_group {groups} does not divide the {self.n_routed_experts} experts "
                f"(legal: a divisor of {self.n_routed_experts})"
            )
        if most > groups or most * (self.n_routed_experts // groups) < self.num_experts_per_tok:
            least = -(-self.num_experts_per_tok * groups // self.n_routed_experts)
            raise ValueError(
                f"topk_group {most} of {groups} groups for {self.num_experts_per_tok} experts a token "
                f"(legal: {least} to {groups})"
            )
        return self

    def _is_moe(self, layer: int) -> bool:
        return layer >= (self.first_k_dense_replace or 0) and layer % self.moe_layer_freq == 0

    def _limit(self) -> dict[str, int]:
        """Group-limited routing, where it limits anything."""
        groups, most = self.n_group or 1, self.topk_group or 1
        return {"expert_groups": groups, "groups_per_token": most} if most < groups else {}

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        return super().shape() | {
            "kv_heads": self.num_attention_heads,
            "v_head_dim": self.v_head_dim,
            "attention": "mla",
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": self.qk_nope_head_dim,
            "qk_rope_head_dim": self.qk_rope_head_dim,
            "attention_bias": self.attention_bias,
            "attention_out_bias": self.attention_bias,
            # The load-balancing bias of each expert is stored with the router (arXiv 2412.19437,
            # section 2.1.2).
            "router_bias": True,
            "shared_experts": self.n_shared_experts or 0,
            **self._limit(),
            "expert_ffn": self.moe_intermediate_size,
        }


class GptOss(Mixture):
    """gpt-oss: sinks, biases, every layer a mixture, every other layer sliding."""

    aliases: ClassVar[dict[str, str]] = {
        **Decoder.aliases, "num_experts": "num_local_experts",
        "n_routed_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok",
    }  # fmt: skip

    vocab_size: Vocab = 201088
    hidden_size: Width = 2880
    intermediate_size: Width = 2880
    num_hidden_layers: Layers = 36
    num_attention_heads: Heads = 64
    num_key_value_heads: Heads | None = 8
    head_dim: HeadWidth | None = 64
    attention_bias: bool = True
    sliding_window: Tokens | None = 128
    layer_types: list[LayerType] | None = None
    num_local_experts: Experts = 128
    num_experts_per_tok: Experts = 4

    @model_validator(mode="after")
    def _one_type_per_layer(self) -> GptOss:
        check_layer_types(self.layer_types, self.num_hidden_layers)
        return self

    def _experts(self) -> int:
        return self.num_local_experts

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        if self.layer_types is None:
            slides = [layer % 2 == 0 for layer in range(self.num_hidden_layers)]
        else:
            slides = [kind == "sliding_attention" for kind in self.layer_types]
        return super().shape() | {
            "attention_bias": self.attention_bias,
            "attention_out_bias": self.attention_bias,
            "attention_sinks": True,
            "mlp_bias": True,
            "router_bias": True,
            "windows": self._windows(self.sliding_window, slides),
        }
