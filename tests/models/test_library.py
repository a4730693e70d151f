"""Finding models by name, alias, path and mapping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commlens.hardware.errors import InputError
from commlens.models.library import PRESETS, load_model, model_names

SHIPPED = {
    "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "mixtral-8x7b", "qwen3-235b-a22b",
    "deepseek-v3", "gpt-oss-120b", "gpt-3-175b", "t-nlg", "mega-gpt-2", "palm-540b", "mt-nlg-530b",
    "ladder-1b", "ladder-3b", "ladder-8b", "ladder-34b", "ladder-70b", "ladder-176b", "ladder-405b",
}  # fmt: skip


def test_every_promised_model_is_shipped_and_loads_under_its_name() -> None:
    assert set(model_names()) >= SHIPPED
    assert model_names() == sorted(model_names())
    for name in model_names():
        assert load_model(name).name == name


def test_every_preset_says_where_it_comes_from_and_aliases_are_unique() -> None:
    spellings: list[str] = []
    for name in model_names():
        data = json.loads((PRESETS / f"{name}.json").read_text())
        assert len(data["_source"]) > 20
        spellings += [name, *data.get("_aliases", ())]
    assert len(set(spellings)) == len(spellings)


@pytest.mark.parametrize(("said", "meant"), [
    ("Llama-3.1-70B", "llama-3.1-70b"),
    ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
    ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
    ("meta-llama/Meta-Llama-3-8B", "llama-3.1-8b"),
    ("llama-3-70b", "llama-3.1-70b"),
    ("llama3-70b", "llama-3.1-70b"),
    ("llama_3.1_405b_instruct", "llama-3.1-405b"),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
    ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
    ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
    ("openai/gpt-oss-120b", "gpt-oss-120b"),
    ("GPT-3", "gpt-3-175b"), ("palm", "palm-540b"), ("MT-NLG", "mt-nlg-530b"),
    ("bloom-176b-gated", "ladder-176b"),
])  # fmt: skip
def test_other_spellings(said: str, meant: str) -> None:
    assert load_model(said) is load_model(meant)


@pytest.mark.parametrize(("said", "near"), [
    ("llama-3.1-70", "llama-3.1-70b"), ("lama-3.1-8b", "llama-3.1-8b"),
    ("meta-llama/Llama-3.1-71B", "llama-3.1-70b"), ("mixtral-8x8b", "mixtral-8x7b"),
    ("deepsek-v3", "deepseek-v3"),
])  # fmt: skip
def test_misspelt_names_offer_the_nearest(said: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(said)
    text = str(caught.value)
    assert "\n" not in text
    assert said in text
    assert "did you mean" in text
    assert near in text.split("(legal")[0]


STRANGE = ["", "x" * 100_000, "a\0b", "./none/llama-3.1-8b", "no/such/model"]


@pytest.mark.parametrize("said", STRANGE)
def test_strange_names_are_refused_in_one_short_line(said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(said)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("said", [None, 3, ["llama-3.1-8b"]])
def test_other_types_are_refused(said: object) -> None:
    with pytest.raises(InputError, match="legal: a name, a path, or a mapping"):
        load_model(said)  # type: ignore[arg-type]


def test_a_path_to_a_config_and_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = (PRESETS / "mixtral-8x7b.json").read_text()
    folder = tmp_path / "llama-3.1-8b"
    folder.mkdir()
    (folder / "config.json").write_text(raw)
    assert load_model(str(folder)).family == load_model(folder).family == "mixtral"
    assert load_model(str(folder / "config.json")).experts == 8
    monkeypatch.chdir(tmp_path)
    assert load_model("./llama-3.1-8b").family == "mixtral"
    assert load_model("llama-3.1-8b").family == "llama"  # a bare name is never shadowed


def test_a_missing_json_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        load_model("nowhere.json")


def test_a_mapping_may_change_a_preset() -> None:
    full = load_model("deepseek-v3")
    cut = load_model({"preset": "DeepSeek-V3", "num_hidden_layers": 4})
    assert (cut.layers, cut.hidden, sum(cut.moe_layers)) == (4, full.hidden, 1)
    assert load_model({"preset": "mixtral-8x7b", "num_experts": 16, "name": "wide"}).experts == 16
    assert load_model({"preset": "mixtral-8x7b", "name": "wide"}).name == "wide"


@pytest.mark.parametrize(("mapping", "said"), [
    ({"preset": "llama-3.1-8"}, "model: preset: unknown model 'llama-3.1-8'; did you mean"),
    ({"preset": "llama-3.1-8b", "hiden_size": 3}, "hidden_size"),
    ({"preset": "llama-3.1-8b", "model_type": "gpt2"}, "cannot change a preset's family"),
    ({"preset": 8}, "unknown model '8'"),
])  # fmt: skip
def test_bad_changes(mapping: dict, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(mapping)
    assert said in str(caught.value)


def test_a_transformer_is_returned_as_it_is() -> None:
    model = load_model("t-nlg")
    assert load_model(model) is model
