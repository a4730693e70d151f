"""The software stack a model runs on: launch gaps, attention kernels, what is sharded.

Hardware presets say what the machine can do; a software profile says what a stack makes of it.
Numbers that were fitted carry the rows they were fitted to in `source`, and `error` is what the
fit left on rows it did not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..hardware.errors import InputError, nearest

PRESETS = Path(__file__).parent / "presets" / "software"


@dataclass(frozen=True, slots=True)
class Software:
    """A software profile.

    Parameters
    ----------
    name : str
    kernel_overhead : float or None
        Gap between two kernels of a stream [s]; None takes the device's own launch overhead.
    collective_overhead : float
        Time a collective adds around its wire time: stream hand-over, rank skew [s].
    attention : str
        "flash" (fused) or "math" (scores through memory in fp32, keys and values expanded).
    score_bytes : float
        Memory traffic per attention score of the math kernels [B].
    expanded_kv_share : float
        Share of the expanded keys and values that a math decode step reads from memory; the rest
        hits the cache.
    static_cache : bool
        Attention always runs over the whole allocated cache, masked.
    shards_head : bool
        Whether embedding and output projection are divided over the tensor-parallel ranks.
    all_logits : bool
        Whether prefill computes logits for every prompt token, or for the last one only.
    fuses_single_row : bool
        Whether elementwise kernels vanish into matrix-vector products.
    error : float or None
        Half-width of the 90 % interval as a share of the prediction, from held-out rows.
    calibrated_on : tuple of str
        Devices `error` speaks of.
    source : Mapping
        Where each number comes from.
    """

    name: str
    kernel_overhead: float | None = None
    collective_overhead: float = 0.0
    attention: str = "flash"
    score_bytes: float = 0.0
    expanded_kv_share: float = 1.0
    static_cache: bool = False
    shards_head: bool = True
    all_logits: bool = False
    fuses_single_row: bool = False
    error: float | None = None
    calibrated_on: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)


def software_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_software(what: str | Mapping[str, Any], where: str = "software") -> Software:
    """Profile by preset name, by YAML path, or as a mapping that may override a `preset`.

    Raises
    ------
    InputError
        One line naming the key and what is legal.
    """
    if isinstance(what, str):
        return _by_name(what, where)
    data = dict(what)
    base = data.pop("preset", None)
    start = {"name": "software"} if base is None else _raw(str(base), where)
    return _build({**start, **data}, where)


@cache
def _by_name(name: str, where: str) -> Software:
    return _build(_raw(name, where), where)


def _raw(name: str, where: str) -> dict[str, Any]:
    from ..hardware.files import read_yaml

    path = PRESETS / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name not in software_names():
        raise InputError(
            f"{where}: unknown software profile {name!r} (legal: {', '.join(software_names())})"
            f"{nearest(name, software_names())}"
        )
    return {"name": path.stem, **read_yaml(path)}


def _build(data: Mapping[str, Any], where: str) -> Software:
    from ..hardware.files import check
    from .schemas import SoftwareFile

    values = check(SoftwareFile, data, where).model_dump()
    values["calibrated_on"] = tuple(values["calibrated_on"])
    return Software(**values)
