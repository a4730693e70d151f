"""Reading configs: defaults, aliases, windows, and what is refused with which line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.models.architecture import Transformer
from commlens.models.families import FAMILIES
from commlens.models.huggingface import read_config

TINY = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 100}

# A released file in full, as far as its kinds of keys go.
RELEASED = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008], "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3", "low_freq_factor": 1.0},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.43.0",
    "use_cache": True, "vocab_size": 128256, "unsloth_fixed": True,
}  # fmt: skip


def refusal(source: Any) -> str:
    """The one line a source is refused with."""
    with pytest.raises(InputError) as caught:
        read_config(source)
    text = str(caught.value)
    assert "\n" not in text
    return text


def write(folder: Path, text: str) -> Path:
    path = folder / "config.json"
    path.write_text(text, encoding="utf-8")
    return path


# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_released_file_reads_from_disk_and_inline(tmp_path: Path, by_hand: bool) -> None:
    model = read_config(RELEASED if by_hand else write(tmp_path, json.dumps(RELEASED)))
    assert model.parameters() == 8_030_261_248
    assert (model.heads, model.kv_heads, model.head_dim, model.ffn) == (32, 8, 128, 14336)
    assert (model.max_positions, model.positions, model.dtype) == (131072, 0, "bf16")


def test_folder_and_file_are_the_same_model_named_after_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    path = write(folder, json.dumps(RELEASED))
    assert read_config(folder) == read_config(str(path))
    assert read_config(folder).name == "my-llama"


DEFAULTS = {
    "llama": (4096, 32, 32, 32, 128, 11008, 32000),
    "mistral": (4096, 32, 32, 8, 128, 14336, 32000),
    "gpt2": (768, 12, 12, 12, 64, 3072, 50257),
    "gpt2_moe": (768, 12, 12, 12, 64, 3072, 50257),
    "mixtral": (4096, 32, 32, 8, 128, 14336, 32000),
    "qwen3": (4096, 32, 32, 32, 128, 22016, 151936),
    "qwen3_moe": (2048, 24, 32, 4, 64, 6144, 151936),
    "deepseek_v3": (7168, 61, 128, 128, 192, 18432, 129280),
    "gpt_oss": (2880, 36, 64, 8, 64, 2880, 201088),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_absent_keys_take_the_class_default(kind: str) -> None:
    m = read_config({"model_type": kind})
    assert (m.hidden, m.layers, m.heads, m.kv_heads, m.head_dim, m.ffn, m.vocab) == DEFAULTS[kind]
    assert m.family == m.name == kind
    assert m.gated == (not kind.startswith("gpt2"))
    assert m.tied_embeddings == kind.startswith("gpt2")


@pytest.mark.parametrize(
    ("kind", "experts", "visited", "width", "mixtures"),
    [("mixtral", 8, 2, 14336, 32), ("qwen3_moe", 128, 8, 768, 24),
     ("deepseek_v3", 256, 8, 2048, 58), ("gpt_oss", 128, 4, 2880, 36), ("gpt2_moe", 64, 1, 3072, 12)],
)  # fmt: skip
def test_mixture_defaults(kind: str, experts: int, visited: int, width: int, mixtures: int) -> None:
    m = read_config({"model_type": kind})
    assert (m.experts, m.experts_per_token, m.expert_ffn) == (experts, visited, width)
    assert sum(map(m.is_moe, range(m.layers))) == mixtures
    assert m.shared_experts == (kind == "deepseek_v3")


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_three_names_of_the_expert_count(kind: str, key: str) -> None:
    assert read_config({"model_type": kind, key: 24}).experts == 24


def test_gpt2_takes_the_standard_names_too() -> None:
    named = read_config({"model_type": "gpt2", **TINY, "max_position_embeddings": 32})
    own = read_config({"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 8,
                       "vocab_size": 100, "n_positions": 32})  # fmt: skip
    assert named == own


@pytest.mark.parametrize(("key", "value", "dtype"), [
    ("dtype", "float16", "fp16"), ("torch_dtype", "float32", "fp32"), ("dtype", None, "bf16"),
])  # fmt: skip
def test_both_names_of_the_dtype(key: str, value: str | None, dtype: str) -> None:
    assert read_config({"model_type": "llama", key: value}).dtype == dtype


@pytest.mark.parametrize("rope", [
    {"rope_theta": 1e6, "rope_scaling": None},
    {"rope_scaling": {"type": "yarn", "factor": 40}},
    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
])  # fmt: skip
def test_every_form_of_rope_is_accepted_and_changes_nothing(rope: dict) -> None:
    assert read_config({"model_type": "llama", **rope}) == read_config({"model_type": "llama"})


def test_null_means_default_where_the_class_allows_it() -> None:
    m = read_config({"model_type": "llama", **TINY, "num_key_value_heads": None, "head_dim": None})
    assert (m.kv_heads, m.head_dim) == (8, 8)
    assert read_config({"model_type": "gpt2", "n_inner": None}).ffn == 3072
    assert read_config({"model_type": "deepseek_v3", "q_lora_rank": None}).q_lora_rank is None


@pytest.mark.parametrize(("config", "windows"), [
    ({"model_type": "llama"}, ()),
    ({"model_type": "mistral"}, (4096,) * 4),
    ({"model_type": "mistral", "sliding_window": None}, ()),
    ({"model_type": "mixtral"}, ()),
    ({"model_type": "qwen3", "sliding_window": 9}, ()),
    ({"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 3},
     (None, None, None, 4096)),
    ({"model_type": "qwen3_moe", "use_sliding_window": True, "sliding_window": 9}, (9,) * 4),
    ({"model_type": "gpt_oss"}, (128, None, 128, None)),
    ({"model_type": "gpt_oss", "layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
     (None, None, None, 128)),
])  # fmt: skip
def test_windows(config: dict, windows: tuple) -> None:
    assert read_config({**config, **TINY, "num_key_value_heads": 8}).windows == windows


@pytest.mark.parametrize(("keys", "moe"), [
    ({}, (True,) * 4),
    ({"decoder_sparse_step": 2}, (False, True, False, True)),
    ({"mlp_only_layers": [0, 3]}, (False, True, True, False)),
    ({"mlp_only_layers": [0, 1, 2, 3]}, ()),
])  # fmt: skip
def test_dense_layers_of_qwen3_moe(keys: dict, moe: tuple) -> None:
    assert read_config({"model_type": "qwen3_moe", **TINY, **keys}).moe_layers == moe


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "key", "offered"), [
    ("llama", "hiden_size", "hidden_size"),
    ("llama", "num_hidden_layer", "num_hidden_layers"),
    ("mixtral", "num_experts_per_token", "num_experts_per_tok"),
    ("gpt2", "n_layers", "n_layer"),
    ("deepseek_v3", "kv_lora_rnk", "kv_lora_rank"), ("llama", "hidden_size ", "hidden_size"),
])  # fmt: skip
def test_a_misspelt_key_is_refused_by_hand_and_ignored_in_a_file(
    tmp_path: Path, kind: str, key: str, offered: str
) -> None:
    config = {"model_type": kind, key: 12}
    text = refusal(config)
    assert key in text
    assert offered in text.split("legal")[0]
    assert read_config(write(tmp_path, json.dumps(config))).layers > 0


@pytest.mark.parametrize(("kind", "key"), [
    ("llama", "n_layer"), ("llama", "num_experts"), ("mixtral", "moe_intermediate_size"),
    ("llama", "sliding_window"), ("llama", "layers"), ("gpt2", "kv_heads"),
])  # fmt: skip
def test_a_key_of_another_family_is_refused_by_hand(kind: str, key: str) -> None:
    assert f"{key}: not a key of model_type {kind}" in refusal({"model_type": kind, key: 2})


def test_keys_that_look_like_nothing_are_let_through() -> None:
    keys = {"_note": "mine", "unsloth_fixed": True, "layers": None, "ep_size": 1}
    assert read_config({"model_type": "llama", **keys}) == read_config({"model_type": "llama"})


@pytest.mark.parametrize(("key", "value"), [
    ("hidden_size", "4096"), ("hidden_size", 4096.5), ("hidden_size", True), ("hidden_size", None),
    ("hidden_size", 0), ("hidden_size", -4096), ("hidden_size", 10**9), ("hidden_size", [4096]),
    ("num_hidden_layers", 10**6), ("vocab_size", 10**12), ("num_attention_heads", 0),
    ("intermediate_size", -1), ("attention_bias", "yes"), ("torch_dtype", "int3"),
    ("max_position_embeddings", 0), ("parallel_block", 1),
])  # fmt: skip
def test_wrong_types_and_absurd_sizes_name_key_and_legal_range(tmp_path: Path, key: str, value: Any) -> None:
    path = write(tmp_path, json.dumps({"model_type": "llama", key: value}))
    text = refusal(path)
    assert str(path) in text
    assert key.removeprefix("torch_") in text
    assert "legal" in text


@pytest.mark.parametrize(("config", "said"), [
    ({"model_type": "llama", "num_key_value_heads": 5}, "does not divide num_attention_heads 32"),
    ({"model_type": "llama", "hidden_size": 100}, "not a multiple of num_attention_heads 32"),
    ({"model_type": "gpt2", "n_head": 7}, "not a multiple of n_head 7"),
    ({"model_type": "mixtral", "num_experts_per_tok": 9}, "legal: 1 to 8"),
    ({"model_type": "gpt_oss", "layer_types": ["full_attention"]}, "legal: 36 entries"),
    ({"model_type": "gpt_oss", "layer_types": ["full"] * 36}, "layer_types"),
    ({"model_type": "mixtral", "num_experts": 4, "num_local_experts": 8},
     "disagrees with num_experts 4"),
    ({"model_type": "lama"}, "llama"),
    ({"model_type": "mamba2"}, "legal: deepseek_v3, gpt2, gpt2_moe, gpt_oss, llama, mistral"),
    ({"model_type": ["llama"]}, "unknown"),
    ({"hidden_size": 64}, "model_type: missing (legal: deepseek_v3"),
    ({"model_type": "llama", 3: 4}, "key must be a string"),
])  # fmt: skip
def test_contradictions_and_unknown_families(config: dict, said: str) -> None:
    assert said in refusal(config)


def test_agreeing_aliases_are_fine() -> None:
    twice = {"model_type": "gpt_oss", "num_experts_per_tok": 4, "experts_per_token": 4}
    assert read_config(twice).experts_per_token == 4
    one_null = {"model_type": "mixtral", "num_experts": None, "num_local_experts": 6}
    assert read_config(one_null).experts == 6


@pytest.mark.parametrize("text", [
    '{"model_type": "llama", "hidden_size": 40', "", "hello", "[1, 2]", "null", "\x00\x01",
    '{"model_type": "llama", "hidden_size": NaN}', "[" * 20000,
    '{"model_type": "llama", "hidden_size": 1' + "0" * 5000 + "}",
])  # fmt: skip
def test_broken_files_are_named_in_one_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    assert str(path) in refusal(path)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"model_type": "llama", "_pad": "x" * 10_000_000}))
    assert str(path) in refusal(path)


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    assert "none.json" in refusal(tmp_path / "none.json")
    assert str(tmp_path) in refusal(tmp_path)


ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-2, 5), max_size=3), st.dictionaries(st.text(max_size=3), st.none()),
)  # fmt: skip
KEYS = sorted({key for f in FAMILIES.values() for key in (*f.model_fields, *f.aliases)} | {"name"})


@settings(derandomize=True, deadline=None, max_examples=300)
@given(kind=st.sampled_from(sorted(FAMILIES)), keys=st.dictionaries(st.sampled_from(KEYS), ANY))
def test_any_mapping_is_read_or_refused_in_one_line(kind: str, keys: dict[str, Any]) -> None:
    line = ""
    try:
        model = read_config({"model_type": kind, **keys})
    except InputError as refused:
        line = str(refused)
    else:
        assert isinstance(model, Transformer)
        assert 0 < model.active_parameters() <= model.parameters()
    assert "\n" not in line
