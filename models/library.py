"""Models by name: published configurations shipped with the package, files, and mappings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..hardware.errors import InputError, nearest
from .architecture import Transformer
from .huggingface import canonical, read_config

PRESETS = Path(__file__).parent / "presets"

# What model hubs append to a name without changing the shapes behind it.
VARIANT = re.compile(r"(-(instruct|chat|base|hf|it|thinking|fp8|bf16|v0\.\d|\d{4}))+$")


def model_names() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def load_model(what: str | Path | Mapping[str, Any] | Transformer, where: str = "model") -> Transformer:
    """Model by name, by path, or by its keys.

    Parameters
    ----------
    what : str, Path, Mapping or Transformer
        A shipped name in any case, with or without its publisher ("llama-3.1-70b",
        "meta-llama/Llama-3.1-70B-Instruct"); a path to a Hugging Face `config.json` or to the
        folder that holds it; or a mapping of the same keys, which may change a shipped model by
        naming it as `preset`. A `Transformer` is returned as it is.
    where : str
        How errors call the place it was given in.

    Raises
    ------
    InputError
        One line naming the place or file, the key, and what is legal or near.
    """
    if isinstance(what, Transformer):
        return what
    if isinstance(what, Mapping):
        return _from_mapping(what, where)
    if isinstance(what, str):
        preset = _find(what)
        # A bare name always means the shipped model, whatever lies in the working directory.
        if preset is not None and not ("/" in what and os.path.exists(what)):
            return _preset(preset)
        if not what.endswith(".json") and not os.path.exists(what):
            raise _unknown(what, where)
    elif not isinstance(what, Path):
        raise InputError(f"{where}: {type(what).__name__} given (legal: a name, a path, or a mapping of keys)")
    return read_config(what)


def _unknown(what: str, where: str) -> InputError:
    names = model_names()
    text = what.lower().rsplit("/", 1)[-1][:80]
    return InputError(
        f"{where}: unknown model {what[:80]!r}{nearest(text, names)} "
        f"(legal: {', '.join(names)}, a path to a config.json, or a mapping of its keys)"
    )


def _from_mapping(what: Mapping[str, Any], where: str) -> Transformer:
    if "preset" not in what:
        return read_config(what, where=where)
    changes = {key: value for key, value in what.items() if key != "preset"}
    base = what["preset"]
    preset = _find(base) if isinstance(base, str) else None
    if preset is None:
        raise _unknown(str(base), f"{where}: preset")
    keys = canonical(_raw(preset), where)
    if changes.get("model_type", keys["model_type"]) != keys["model_type"]:
        raise InputError(
            f"{where}: model_type: {changes['model_type']!r} cannot change a preset's family "
            f"(legal: {keys['model_type']})"
        )
    changes = canonical({**changes, "model_type": keys["model_type"]}, where)
    return read_config({**keys, "name": preset, **changes}, where=where)


def _find(name: str) -> str | None:
    """Shipped name that `name` stands for, None if none does."""
    publisher, _, text = name.strip().lower().rpartition("/")
    if publisher.startswith(".") or "/" in publisher:  # a path, not "publisher/model"
        return None
    known, text = _spellings(), re.sub(r"[_ ]", "-", text)
    return known.get(_squeeze(text)) or known.get(_squeeze(VARIANT.sub("", text)))


def _squeeze(name: str) -> str:
    """Letters and digits only, so that "Llama_3.1 70B" and "llama-3.1-70b" are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _spellings() -> dict[str, str]:
    """Shipped name by every squeezed spelling of it and of its aliases."""
    known = {}
    for name in model_names():
        for spelling in (name, *_raw(name).get("_aliases", ())):
            known[_squeeze(spelling)] = name
    return known


@cache
def _raw(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    return data


@cache
def _preset(name: str) -> Transformer:
    return read_config(_raw(name), name=name, where=f"{name}.json")
