"""Dense model families as Hugging Face writes them: keys, defaults, legal ranges, meaning.

Key names and defaults are those of the configuration classes of transformers 5.23.0, one schema
per `model_type`. `shape` turns a checked configuration into the fields of `Transformer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=1_048_576)]
HeadWidth = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=10_000)]
LayerIndex = Annotated[int, Field(ge=0, le=10_000)]
Heads = Annotated[int, Field(ge=1, le=65_536)]
Vocab = Annotated[int, Field(ge=1, le=16_777_216)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)]

DTYPES = {
    "float32": "fp32", "fp32": "fp32", "float": "fp32",
    "bfloat16": "bf16", "bf16": "bf16", "auto": "bf16",
    "float16": "fp16", "fp16": "fp16", "half": "fp16",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "fp8": "fp8",
}  # fmt: skip
Dtype = Literal[
    "float32", "fp32", "float", "bfloat16", "bf16", "auto", "float16", "fp16", "half",
    "float8_e4m3fn", "float8_e5m2", "fp8",
]  # fmt: skip
LayerType = Literal["full_attention", "sliding_attention"]
MixedType = Literal["full_attention", "linear_attention"]


class Decoder(BaseModel):
    """What every family shares. Keys that do not change a shape are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    aliases: ClassVar[dict[str, str]] = {"torch_dtype": "dtype"}

    dtype: Dtype | None = None
    parallel_block: bool = False  # our own key: attention and MLP side by side share one norm

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer`, without name and family."""
        return {
            "dtype": DTYPES[self.dtype or "bfloat16"],
            "parallel_block": self.parallel_block,
            "norms_per_layer": 1 if self.parallel_block else 2,
        }


class Gpt2(Decoder):
    """GPT-2 and its descendants: learned positions, LayerNorm, biases everywhere."""

    aliases: ClassVar[dict[str, str]] = {
        **Decoder.aliases,
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "n_inner",
    }

    vocab_size: Vocab = 50257
    n_positions: Tokens = 1024
    n_embd: Width = 768
    n_layer: Layers = 12
    n_head: Heads = 12
    n_inner: Width | None = None
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> Gpt2:
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head} (legal: a multiple of {self.n_head})"
            )
        return self

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        head = self.n_embd // self.n_head
        return super().shape() | {
            "hidden": self.n_embd,
            "layers": self.n_layer,
            "heads": self.n_head,
            "kv_heads": self.n_head,
            "head_dim": head,
            "v_head_dim": head,
            "ffn": self.n_inner or 4 * self.n_embd,
            "vocab": self.vocab_size,
            "gated": False,
            "tied_embeddings": self.tie_word_embeddings,
            "positions": self.n_positions,
            "max_positions": self.n_positions,
            "attention_bias": True,
            "attention_out_bias": True,
            "mlp_bias": True,
            "norm": "layernorm",
        }


class Rotary(Decoder):
    """Keys of the Llama line: rotary positions, RMSNorm, gated MLP, grouped key/value heads."""

    vocab_size: Vocab = 32000
    hidden_size: Width = 4096
    intermediate_size: Width = 14336
    num_hidden_layers: Layers = 32
    num_attention_heads: Heads = 32
    num_key_value_heads: Heads | None = None
    max_position_embeddings: Tokens = 131072
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Rotary:
        heads, groups = self.num_attention_heads, self.num_key_value_heads or 1
        if heads % groups:
            raise ValueError(
                f"num_key_value_heads {groups} does not divide num_attention_heads {heads} "
                f"(legal: a divisor of {heads})"
            )
        if self._head_dim() is None and self.hidden_size % heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {heads} "
                f"and no head_dim is given (legal: a multiple of {heads}, or give head_dim)"
            )
        return self

    def _head_dim(self) -> int | None:
        return getattr(self, "head_dim", None)

    def _windows(self, length: int | None, slides: list[bool]) -> tuple[int | None, ...]:
        """One window per layer; empty when no layer has one."""
        if length is None or not any(slides):
            return ()
        return tuple(length if sliding else None for sliding in slides)

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        head = self._head_dim() or self.hidden_size // self.num_attention_heads
        return super().shape() | {
            "hidden": self.hidden_size,
            "layers": self.num_hidden_layers,
            "heads": self.num_attention_heads,
            "kv_heads": self.num_key_value_heads or self.num_attention_heads,
            "head_dim": head,
            "v_head_dim": head,
            "ffn": self.intermediate_size,
            "vocab": self.vocab_size,
            "tied_embeddings": self.tie_word_embeddings,
            "max_positions": self.max_position_embeddings,
        }


class Llama(Rotary):
    """Llama 1 to 3, and the same with linear attention in some layers or all.

    `layer_types` is written as transformers does for models of both kinds of attention, one name per layer,
    or as a pattern of L (linear) and N (softmax) that repeats, as hybrids are described (LLLN).
    """

    intermediate_size: Width = 11008
    max_position_embeddings: Tokens = 2048
    head_dim: HeadWidth | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    layer_types: list[MixedType] | str | None = None

    @model_validator(mode="after")
    def _one_type_per_layer(self) -> Llama:
        types, layers = self.layer_types, self.num_hidden_layers
        if not isinstance(types, str):
            check_layer_types(types, layers)
        elif not types or set(types) - set("LN"):
            raise ValueError(f"layer_types {types[:40]!r} (legal: L for linear and N for softmax, as in LLLN)")
        elif layers % len(types):
            raise ValueError(
                f"layer_types {types} of {len(types)} layers does not repeat to num_hidden_layers {layers} "
                f"(legal: a length that divides {layers})"
            )
        return self

    def _linear(self) -> tuple[bool, ...]:
        """Which layers have linear attention; empty when none has."""
        types = self.layer_types or ()
        if isinstance(types, str):
            linear = [kind == "L" for kind in types * (self.num_hidden_layers // len(types))]
        else:
            linear = [kind == "linear_attention" for kind in types]
        return tuple(linear) if any(linear) else ()

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        return super().shape() | {
            "linear_layers": self._linear(),
            "attention_bias": self.attention_bias,
            "attention_out_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        }


class Mistral(Rotary):
    """Mistral 7B: every layer slides."""

    num_key_value_heads: Heads | None = 8
    head_dim: HeadWidth | None = None
    sliding_window: Tokens | None = 4096

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        slides = [True] * self.num_hidden_layers
        return super().shape() | {"windows": self._windows(self.sliding_window, slides)}


class Qwen3(Rotary):
    """Qwen3 dense: norms on queries and keys; upper layers may slide."""

    vocab_size: Vocab = 151936
    intermediate_size: Width = 22016
    num_key_value_heads: Heads | None = 32
    max_position_embeddings: Tokens = 32768
    head_dim: HeadWidth = 128
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Tokens | None = 4096
    max_window_layers: LayerIndex = 28
    layer_types: list[LayerType] | None = None

    @model_validator(mode="after")
    def _one_type_per_layer(self) -> Qwen3:
        check_layer_types(self.layer_types, self.num_hidden_layers)
        return self

    def shape(self) -> dict[str, Any]:
        """Fields of `Transformer` this family adds or changes."""
        if self.layer_types is None:
            slides = [i >= self.max_window_layers for i in range(self.num_hidden_layers)]
        else:
            slides = [kind == "sliding_attention" for kind in self.layer_types]
        length = self.sliding_window if self.use_sliding_window else None
        return super().shape() | {
            "attention_bias": self.attention_bias,
            "attention_out_bias": self.attention_bias,
            "qk_norm": True,
            "windows": self._windows(length, slides),
        }


def check_layer_types(layer_types: Sequence[str] | None, layers: int) -> None:
    """Refuse a list of layer types that does not have one entry per layer."""
    if layer_types is not None and len(layer_types) != layers:
        raise ValueError(
            f"layer_types has {len(layer_types)} entries for num_hidden_layers {layers} (legal: {layers} entries)"
        )
