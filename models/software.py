"""The software stack a model runs on: launch gaps, attention kernels, what is sharded.

Hardware presets say what the machine can do; a software profile says what a stack makes of it.
Numbers that were fitted carry the rows they were fitted to in `source`; `error` is what the fit left
on rows it did not see, and `spread` how far a prediction may be off.
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
        "flash" (fused), "math" (scores through memory in fp32, keys and values expanded) or "unfused"
        (half-precision scores through memory, one kernel for scale, mask and softmax).
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
    flash_efficiency : Mapping
        By device, the share of the dense GEMM rate a fused attention kernel reaches forward; "default"
        for devices not named, and the general one where that is missing.
    flash_backward : float
        Its backward time over its forward time.
    grouped_efficiency : float
        Speed of grouped products (experts) in training over that of single ones of the same tiles.
    fuses_residual : bool
        Whether the residual addition and the norm after it are one kernel.
    dropout : bool
        Whether attention probabilities and block outputs are dropped out in training.
    quantise_bytes : float
        Memory traffic per element of turning an operand of a product into a narrow format [B].
    gather_copies : bool
        Whether what sequence parallelism gathers and scatters is copied once more, the sequence not being the
        outermost dimension of an activation.
    accumulate_bytes : float
        Memory traffic per parameter and micro-batch of adding a gradient to the sum of those before, in
        kernels of its own [B]; 0 where the products add.
    gradient_bytes, message_bytes : float
        Size of a stored gradient, and of one sent to be added up [B].
    state_bytes, update_bytes : float
        Optimizer state per parameter, and memory traffic per parameter of clipping and updating [B].
    loss_bytes : float
        Memory traffic of the loss, forward and backward, per logit [B].
    logit_bytes : float
        Memory the loss needs at once, per logit [B].
    host_per_kernel : float
        What the host takes to launch a kernel [s]: a step is never faster than its launches.
    host_link, host_memory : float
        Bandwidth between a device and host memory, and of host memory per device, for what is offloaded
        [B/s].
    passes : float
        Memory traffic of streaming kernels in training over the counted one: what running operators one
        by one adds (casts, copies, temporaries).
    early_stop : bool
        Whether full recomputation ends at the last activation the backward pass reads: the product that
        makes the layer's output is not repeated.
    selective : str
        What recompute: selective repeats: "attention" (its core), or "products" (every other matrix
        product and all elementwise kernels).
    reserve : float
        Device memory that libraries and the framework take for themselves [B].
    fragmentation : float
        Memory the allocator holds over what is live.
    error : float or None
        Nine in ten rows that were held out are off by no more than this share of the prediction.
    spread : Mapping
        Standard deviation of the logarithm of measured over predicted time of whole steps, by sort of model ("dense",
        "mixture"), from rows the stack was fitted to (`models.spread`); where it is missing, what `error` makes of it.
    calibrated_on : tuple of str
        Devices `error` and `spread` speak of.
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
    flash_efficiency: Mapping[str, float] = field(default_factory=dict)
    flash_backward: float = 2.5
    grouped_efficiency: float = 1.0
    fuses_residual: bool = True
    dropout: bool = False
    quantise_bytes: float = 4.0
    gather_copies: bool = False
    accumulate_bytes: float = 0.0
    gradient_bytes: float = 4.0
    message_bytes: float = 4.0
    state_bytes: float = 12.0
    update_bytes: float = 36.0
    loss_bytes: float = 16.0
    logit_bytes: float = 6.0
    host_per_kernel: float = 0.0
    host_link: float = 25e9
    host_memory: float = 20e9
    passes: float = 1.0
    early_stop: bool = False
    selective: str = "attention"
    reserve: float = 2e9
    fragmentation: float = 1.0
    error: float | None = None
    spread: Mapping[str, float] = field(default_factory=dict)
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
