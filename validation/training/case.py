"""A row of a training table, read: the scenario it describes, what was measured, or why it cannot be predicted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...hardware.errors import InputError

GIB, GB = 2.0**30, 1e9
FORMATS = (
    (("fp4",), "fp4"),
    (("fp8", "float8"), "fp8"),
    (("fp16", "half"), "fp16"),
    (("bf16", "bfloat16"), "bf16"),
    (("fp32",), "fp32"),
)
CALLED = {
    "n_gpus": "number of devices",
    "seq_len": "sequence length",
    "global_batch_seqs": "global batch",
    "microbatch_per_gpu_seqs": "micro-batch",
    "hidden": "hidden size",
    "layers": "number of layers",
    "heads": "number of heads",
}


@dataclass(frozen=True)
class Case:
    """What a row says.

    Parameters
    ----------
    row_id : str
    source : str
        Which runs it belongs to, such as "mosaic" or "vtrain-multi".
    row : Mapping
        The row as it stands in its table.
    scenario : Mapping or None
        For `Scenario.from_dict`; None where `reason` tells why there is none.
    step_time : float or None
        Measured seconds of a step [s].
    memory : float or None
        Memory of the fullest device as reported [B].
    reason : str
        Why it cannot be predicted; empty where it can.
    doubt : str
        Why its measurement is not a clean one; empty where it is.
    """

    row_id: str
    source: str
    row: Mapping[str, str] = field(repr=False)
    scenario: Mapping[str, Any] | None = None
    step_time: float | None = None
    memory: float | None = None
    reason: str = ""
    doubt: str = ""

    @property
    def devices(self) -> int:
        """Devices of the run; 0 where the row does not say."""
        return int(optional(self.row, "n_gpus") or 0)


class UnreadableError(Exception):
    """A row that says too little, or something no scenario can express; its text is the reason."""


def optional(row: Mapping[str, str], key: str) -> float | None:
    """Number of a cell, or None where it is empty."""
    text = (row.get(key) or "").strip()
    return float(text) if text else None


def number(row: Mapping[str, str], key: str) -> float:
    """Number of a cell.

    Raises
    ------
    UnreadableError
        Where the cell is empty.
    """
    found = optional(row, key)
    if found is None:
        raise UnreadableError(f"the table leaves out the {CALLED.get(key, key)}")
    return found


def whole(row: Mapping[str, str], key: str, default: int | None = None) -> int:
    """Whole number of a cell, or the default where it is empty."""
    found = optional(row, key)
    if found is None:
        return int(number(row, key)) if default is None else default
    return int(found)


def dtype_of(row: Mapping[str, str], default: str = "bf16") -> str:
    """Number format of the matrix products; mixed precision counts as its narrow one."""
    text = (row.get("precision") or "").lower()
    return next((name for words, name in FORMATS if any(word in text for word in words)), default)


def recompute_of(row: Mapping[str, str], default: str = "none") -> str:
    """Recomputation of a plan: none | selective | full.

    Names of single cheap modules ("recompute: norm, act") count as none: their activations are made
    again in a few elementwise kernels.
    """
    text = (row.get("activation_ckpt") or "").lower()
    if "not stated" in text or "default" in text or not text.strip():
        return default
    if "selective" in text:
        return "selective"
    if text.startswith("full"):
        return "full"
    return "none"


def replicas(row: Mapping[str, str]) -> int:
    """Data-parallel degree: what tensor, pipeline and context parallelism leave of the devices.

    Raises
    ------
    UnreadableError
        Where they do not divide.
    """
    devices = whole(row, "n_gpus")
    used = whole(row, "tp", 1) * whole(row, "pp", 1) * whole(row, "cp", 1)
    if devices % used:
        raise UnreadableError(f"tp x pp x cp = {used} does not divide {devices} devices")
    return devices // used


def micro_batch(row: Mapping[str, str], dp: int, default: int | None = None) -> int:
    """Sequences of a micro-batch: stated, from the accumulation, or the default where it divides."""
    stated = optional(row, "microbatch_per_gpu_seqs")
    share = whole(row, "global_batch_seqs") // dp
    accumulated = optional(row, "grad_accum")
    if stated:
        return int(stated)
    if accumulated and share % int(accumulated) == 0:
        return share // int(accumulated)
    if default is None:
        raise UnreadableError("the table leaves out the micro-batch")
    return next(size for size in range(min(default, share), 0, -1) if share % size == 0)


def interleaving(row: Mapping[str, str], layers: int) -> int:
    """Chunks of a pipeline stage: stated, else the smallest number above one that divides its layers.

    The tables of Megatron leave the degree out where its paper says that the schedule is interleaved.
    """
    stated, stages = optional(row, "vpp"), whole(row, "pp", 1)
    if stated or stages == 1:
        return int(stated or 1)
    own = layers // stages
    return next((n for n in range(2, own + 1) if own % n == 0), 1) if layers % stages == 0 else 1


def degrees(row: Mapping[str, str]) -> dict[str, Any]:
    """tp, pp, dp and, where not one, cp and ep of a plan."""
    plan = {"tp": whole(row, "tp", 1), "pp": whole(row, "pp", 1), "dp": replicas(row)}
    plan |= {key: whole(row, key, 1) for key in ("cp", "ep") if whole(row, key, 1) > 1}
    return plan


def workload(row: Mapping[str, str], dp: int, micro: int, dtype: str) -> dict[str, Any]:
    """`workload:` of a training step."""
    batch = whole(row, "global_batch_seqs")
    if batch % (dp * micro):
        raise UnreadableError(f"a batch of {batch} is not a multiple of {dp} replicas x micro-batches of {micro}")
    return {
        "phase": "training",
        "sequence_length": whole(row, "seq_len"),
        "global_batch": batch,
        "micro_batch": micro,
        "dtype": dtype,
    }


def step_time(row: Mapping[str, str], flops: float | None = None) -> float | None:
    """Seconds of a step: stated, from tokens per second, or from a FLOP rate by the table's own formula.

    Parameters
    ----------
    row : Mapping
    flops : float, optional
        FLOPs of the whole step, as the table counts them.
    """
    stated, rate = optional(row, "step_time_s"), optional(row, "tokens_per_s_per_gpu")
    reported = optional(row, "tflops_per_gpu_reported")
    if stated:
        return stated
    devices = optional(row, "n_gpus")
    if rate and devices:
        return whole(row, "global_batch_seqs") * whole(row, "seq_len") / (rate * devices)
    if reported and devices and flops:
        return flops / (reported * 1e12 * devices)
    return None


def hardware_flops(row: Mapping[str, str], layers: int, vocab: float, full: bool = True) -> float:
    """FLOPs of a step as arXiv 2104.04473 counts them: 96 B s l h^2 (1 + s/6h + V/16lh) when all is recomputed.

    Without recomputation 72 B s l h^2 (1 + s/6h + V/12lh), which is also Megatron-Core 0.8's count.
    """
    hidden, length = number(row, "hidden"), number(row, "seq_len")
    passes, head = (96, 16) if full else (72, 12)
    shape = 1 + length / (6 * hidden) + vocab / (head * layers * hidden)
    return passes * number(row, "global_batch_seqs") * length * layers * hidden**2 * shape


def doubt_of(row: Mapping[str, str]) -> str:
    """What the table itself says against a measurement, or what in a row contradicts itself."""
    notes = (row.get("notes") or "").lower()
    if "regression" in notes:
        return "flagged by its publisher as a regression of that release"
    stated = optional(row, "dp_or_fsdp")
    if stated and "warning" in notes and stated != replicas(row):
        return f"the stated dp = {stated:g} and the number of devices contradict each other"
    return ""


def one_line(problem: Exception) -> str:
    """A reason from an exception."""
    text = str(problem).split("\n")[0]
    if isinstance(problem, UnreadableError | InputError):
        return re.sub(r"^[\w.-]+: ", "", text) if isinstance(problem, InputError) else text
    return f"the row cannot be read: {type(problem).__name__} {text}".strip()
