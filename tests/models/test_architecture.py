"""Parameter and cache counts against published numbers, another code, and executed modules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.models.architecture import Transformer
from commlens.models.huggingface import read_config
from commlens.models.library import load_model, model_names

COUNTED = json.loads((Path(__file__).parent / "data" / "counted.json").read_text())["rows"]

# Model cards and technical reports, in parameters; None where no active count is published.
PUBLISHED = [
    ("llama-3.1-8b", 8.03e9, None),
    ("llama-3.1-70b", 70.55e9, None),
    ("llama-3.1-405b", 405.85e9, None),
    ("mixtral-8x7b", 46.70e9, 12.88e9),
    ("qwen3-235b-a22b", 235.1e9, 22.2e9),
    ("deepseek-v3", 671.0e9, None),
    ("gpt-oss-120b", 116.8e9, None),
    ("palm-540b", 540.35e9, None),  # arXiv 2204.02311, table 1
]
EXACT = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v3": 671_026_419_200,
    "gpt-oss-120b": 116_829_156_672,
}


@pytest.mark.parametrize(("name", "total", "active"), PUBLISHED)
def test_published_counts(name: str, total: float, active: float | None) -> None:
    model = load_model(name)
    assert model.parameters() == pytest.approx(total, rel=1e-3)
    if active is not None:
        assert model.active_parameters() == pytest.approx(active, rel=1e-3)


@pytest.mark.parametrize("name", EXACT)
def test_checkpoint_counts_exactly(name: str) -> None:
    assert load_model(name).parameters() == EXACT[name]


def test_active_counts_follow_each_publishers_convention() -> None:
    # gpt-oss model card, table 1: 5.13 B, the unembedding counted and the embedding not.
    gpt_oss = load_model("gpt-oss-120b")
    assert gpt_oss.active_parameters(input_embedding=False) == pytest.approx(5.13e9, rel=1e-3)
    # DeepSeek-V3 report, abstract: 37 B.
    assert load_model("deepseek-v3").active_parameters() == pytest.approx(37e9, rel=0.02)


@pytest.mark.parametrize(
    ("name", "billions", "tolerance"),
    [
        ("gpt-3-175b", 175, 0.005),
        ("t-nlg", 17.2, 0.005),
        ("mega-gpt-2", 8.3, 0.03),  # the 8.3 B model has 72 layers, this one 74
        ("mt-nlg-530b", 530, 0.002),
        ("ladder-1b", 1.28, 0.005),
        ("ladder-34b", 33.74, 0.001),  # the shape of CodeLlama-34B
    ],
)
def test_nominal_sizes(name: str, billions: float, tolerance: float) -> None:
    assert load_model(name).parameters() == pytest.approx(billions * 1e9, rel=tolerance)


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["config"]["model_type"])
def test_counts_equal_another_code(row: dict) -> None:
    assert read_config(row["config"]).parameters() == row["parameters"]


@pytest.mark.parametrize("name", model_names())
def test_layers_add_up_to_the_model(name: str) -> None:
    model = load_model(name)
    layers = sum(model.layer_parameters(layer) for layer in range(model.layers))
    ends = model.embedding_parameters() + model.head_parameters() + model.final_norm_parameters()
    assert layers + ends == model.parameters() == sum(model.breakdown().values())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llama-3.1-70b", 80 * 2 * 8 * 128),
        ("gpt-3-175b", 96 * 2 * 12288),
        ("palm-540b", 118 * 2 * 256),
        ("deepseek-v3", 61 * (512 + 64)),
    ],
)
def test_cache_of_one_token(name: str, values: int) -> None:
    model = load_model(name)
    assert model.kv_bytes_per_token(2) == 2 * values
    assert model.kv_bytes_per_token(1, layer=3) * model.layers == values


def test_windows_bound_the_cache() -> None:
    model = load_model("gpt-oss-120b")
    token = 2 * 8 * 64 * 2
    assert [model.window(layer) for layer in range(4)] == [128, None, 128, None]
    assert model.kv_cache_bytes(100) == 36 * token * 100
    assert model.kv_cache_bytes(1000) == 18 * token * 1000 + 18 * token * 128


def test_parallel_block_shares_one_norm() -> None:
    palm = load_model("palm-540b")
    serial = load_model({"preset": "palm", "parallel_block": False})
    assert palm.parallel_block
    assert serial.parameters() - palm.parameters() == palm.layers * palm.hidden


def test_mixture_layers_are_where_the_config_says() -> None:
    model = load_model("deepseek-v3")
    assert [model.is_moe(layer) for layer in range(5)] == [False, False, False, True, True]
    assert model.router_parameters(0) == 0
    assert model.mlp_parameters(0) == 3 * 7168 * 18432
    assert model.active_mlp_parameters(3) == 9 * model.expert_parameters() == 9 * 3 * 7168 * 2048


def test_tuples_have_one_entry_per_layer() -> None:
    with pytest.raises(InputError, match="moe_layers: 61 entries for 4 layers"):
        replace(load_model("deepseek-v3"), layers=4)


SHAPES = st.fixed_dictionaries({
    "hidden": st.integers(1, 200),
    "layers": st.integers(1, 6),
    "heads": st.integers(1, 8),
    "kv_heads": st.integers(1, 8),
    "head_dim": st.integers(1, 64),
    "v_head_dim": st.integers(1, 64),
    "ffn": st.integers(1, 300),
    "vocab": st.integers(1, 500),
    "gated": st.booleans(),
    "mlp_bias": st.booleans(),
    "attention_bias": st.booleans(),
    "qk_norm": st.booleans(),
    "norm": st.sampled_from(["rmsnorm", "layernorm"]),
    "expert_ffn": st.integers(1, 100),
    "shared_experts": st.integers(0, 2),
    "router_bias": st.booleans(),
})  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=60)
@given(shape=SHAPES, experts=st.integers(1, 9), data=st.data())
def test_active_is_all_but_the_experts_not_visited(shape: dict, experts: int, data) -> None:
    visited = data.draw(st.integers(1, experts))
    size = shape["layers"]
    moe = tuple(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    model = Transformer("any", "any", **shape, experts=experts, experts_per_token=visited, moe_layers=moe)
    idle = sum(moe) * (experts - visited) * model.expert_parameters()
    assert model.parameters() - model.active_parameters() == idle
    tied = replace(model, tied_embeddings=True)
    assert model.parameters() - tied.parameters() == model.vocab * model.hidden
    assert tied.active_parameters() == tied.active_parameters(input_embedding=False)
