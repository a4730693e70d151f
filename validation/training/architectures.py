"""The model of a row: from its dimensions where they are given, else from its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...hardware.errors import InputError
from ...models.library import load_model
from .case import UnreadableError, whole

VOCAB = 51200  # GPT-2's 50257, padded to the multiple Megatron divides (arXiv 2104.04473, section 5)
# Layers no family here has: state-space or linear attention, learned sparse attention, vision.
FOREIGN = (
    (r"nemotron[-_ ]*(3|h\b|5|nano)|mamba|jamba", "has state-space layers, which no model family here has"),
    (r"qwen3?[-_ .]*(next|5)|linear", "has linear-attention layers, which no model family here has"),
    (r"deepseek[-_ ]*v?(4|3\.2)", "has sparse attention whose shape is not published in the tables"),
    (r"[-_ ](vl|omni|vision)\b", "has a vision tower, which no model family here has"),
)


def gpt(
    row: Mapping[str, str],
    vocab: int = VOCAB,
    tied: bool = True,
    learned_positions: bool = True,
    layers: int | None = None,
    heads: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A GPT of the row's dimensions: MLP four times as wide, not gated.

    Parameters
    ----------
    row : Mapping
    vocab : int
        Where the row gives none.
    tied : bool
        Whether the output projection is the embedding.
    learned_positions : bool
        False for rotary positions or ALiBi, which have no parameters.
    layers, heads : int, optional
        Where the row gives none.
    """
    return {
        "model_type": "gpt2",
        "name": row.get("model") or f"gpt {row.get('params_b', '')}b".replace(" b", ""),
        "n_embd": whole(row, "hidden"),
        "n_layer": whole(row, "layers", layers),
        "n_head": whole(row, "heads", heads),
        "n_positions": whole(row, "seq_len") if learned_positions else 1,
        "vocab_size": whole(row, "vocab", vocab),
        "tie_word_embeddings": tied,
        **more,
    }


def named(name: str) -> str:
    """Shipped model that a table's name means.

    Raises
    ------
    UnreadableError
        For a model of a kind that is not described, or not shipped.
    """
    plain = re.sub(r"\(.*?\)", "", name).strip()
    for pattern, reason in FOREIGN:
        if re.search(pattern, plain, re.IGNORECASE):
            raise UnreadableError(f"{plain} {reason}")
    for spelling in (plain, plain.replace(" ", "-"), re.sub(r"[-_ ]?(\d+b)[-_ ]?(moe|dense)$", r"-\1", plain.lower())):
        try:
            return load_model(spelling).name
        except InputError:
            continue
    raise UnreadableError(f"no preset describes {plain or 'the model'}")


def dimensions_given(row: Mapping[str, str]) -> bool:
    """Whether a row says how large its layers are."""
    return all((row.get(key) or "").strip() for key in ("layers", "hidden", "heads"))
