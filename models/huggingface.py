"""Reads Hugging Face `config.json` files, and mappings of the same keys, into `Transformer`.

Real files carry dozens of keys that change no shape (rotary scaling, token ids, quantisation,
dropout), so what a file says beyond its shapes is ignored. A mapping written by hand is read more
strictly: there a key that looks like a shape but is none would silently leave a default in place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hardware.errors import InputError, nearest
from .architecture import Transformer

if TYPE_CHECKING:
    from .decoders import Decoder

# Keys of the configuration classes (transformers 5.23.0) and of released files that change no
# shape, yet resemble one that does.
WITHOUT_SHAPE = frozenset({
    "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_act", "hidden_dropout",
    "activation_function", "initializer_range", "initial_context_length", "max_window_layers",
    "n_ctx", "n_group", "topk_group", "num_labels", "num_mtp_layers",
    "num_nextn_predict_layers", "num_return_sequences", "original_max_position_embeddings",
    "output_attentions", "output_hidden_states", "output_router_logits", "per_layer_config",
    "qk_head_dim", "rope_parameters", "rope_scaling", "rope_theta", "tie_encoder_decoder",
    "tie_last_hidden_states", "transformers_version", "use_cache", "max_length", "min_length",
})  # fmt: skip
LIKENESS = 0.75  # difflib ratio from which a key counts as misspelt; hiden_size/hidden_size is 0.95


def read_config(
    source: str | Path | Mapping[str, Any], name: str | None = None, where: str | None = None
) -> Transformer:
    """Read a `config.json`, the folder that holds it, or a mapping of its keys.

    Parameters
    ----------
    source : str, Path or Mapping
        Path or keys. A mapping may carry `name`, and keys beginning with an underscore are notes.
    name : str, optional
        What to call the model; default the mapping's `name` or `_name_or_path`, the folder of the
        file, or the `model_type`.
    where : str, optional
        How errors call the source; default the path, or "model".

    Raises
    ------
    InputError
        One line naming the file, the key and what is legal.
    """
    if isinstance(source, Mapping):
        return _build(source, name, where or "model", by_hand=True)
    from ..hardware.files import read_json

    path = Path(source)
    if os.path.isdir(path):  # never raises, unlike Path.is_dir on an overlong name
        path = path / "config.json"
    data = read_json(path)
    own = path.resolve().parent.name if path.name == "config.json" else path.stem
    return _build(data, name or own, where or str(path), by_hand=False)


def canonical(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Copy of `data` with every alias replaced by the key its family uses.

    Raises
    ------
    InputError
        If `model_type` is missing or unknown, or a key and its alias disagree.
    """
    family = _family(data, where)
    result: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, value in data.items():
        target = family.aliases.get(key, key)
        if target in result and result[target] is not None and value is not None:
            if result[target] != value:
                raise InputError(
                    f"{where}: {key}: {value!r} disagrees with {origin[target]} "
                    f"{result[target]!r} (legal: one of them, or the same value)"
                )
        elif target not in result or value is not None:
            result[target], origin[target] = value, key
    return result


def _family(data: Mapping[str, Any], where: str) -> type[Decoder]:
    from .families import FAMILIES

    legal = ", ".join(sorted(FAMILIES))
    kind = data.get("model_type")
    if kind is None:
        raise InputError(f"{where}: model_type: missing (legal: {legal})")
    if not isinstance(kind, str) or kind not in FAMILIES:
        text = str(kind)[:60]
        hint = nearest(text, sorted(FAMILIES))
        raise InputError(f"{where}: model_type: unknown {text!r}{hint} (legal: {legal})")
    return FAMILIES[kind]


def _build(data: Mapping[str, Any], name: str | None, where: str, by_hand: bool) -> Transformer:
    from ..hardware.files import check

    family = _family(data, where)
    keys = canonical(data, where)
    if by_hand:
        _refuse_misspelt(data, family, where)
    shapes = {key: value for key, value in keys.items() if key in family.model_fields}
    shape = check(family, shapes, where).shape()
    kind = str(data["model_type"])
    label = name or data.get("name") or data.get("_name_or_path") or kind
    return Transformer(name=str(label), family=kind, **shape)


def _refuse_misspelt(data: Mapping[str, Any], family: type[Decoder], where: str) -> None:
    """Refuse keys that say something about a shape in a way this family does not read."""
    from .families import FAMILIES

    kind = data["model_type"]
    known = {*family.model_fields, *family.aliases}
    elsewhere = {key for other in FAMILIES.values() for key in (*other.model_fields, *other.aliases)}
    ours = {field.name for field in fields(Transformer)} - {"name", "dtype"}
    for key, value in data.items():
        if not isinstance(key, str):
            raise InputError(f"{where}: {key!r}: a key must be a string")
        if key in known or key in WITHOUT_SHAPE or key in ("model_type", "name") or key[:1] == "_":
            continue
        if value is None:
            continue  # an absent quantity, whatever it is
        alike = get_close_matches(key, known, cutoff=LIKENESS)
        if alike or key in elsewhere or key in ours:
            hint = nearest(key, sorted(known))
            shown = key if key.isprintable() else repr(key)
            raise InputError(
                f"{where}: {shown}: not a key of model_type {kind}{hint} "
                f"(legal: {', '.join(sorted(family.model_fields))})"
            )
