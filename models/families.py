"""The model families that are read, by `model_type`."""

from __future__ import annotations

from .decoders import Decoder, Gpt2, Llama, Mistral, Qwen3
from .mixtures import DeepseekV3, Gpt2Moe, GptOss, Mixtral, Qwen3Moe

FAMILIES: dict[str, type[Decoder]] = {
    "llama": Llama,
    "mistral": Mistral,
    "gpt2": Gpt2,
    "gpt2_moe": Gpt2Moe,
    "mixtral": Mixtral,
    "qwen3": Qwen3,
    "qwen3_moe": Qwen3Moe,
    "deepseek_v3": DeepseekV3,
    "gpt_oss": GptOss,
}
