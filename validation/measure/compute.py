"""``commlens calibrate compute``: probe the device, design the shapes, measure them, fit, and write the profile."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...hardware import Device
from ...hardware.errors import InputError
from ...models.architecture import Transformer
from ...models.library import load_model
from .compute_profile import Fit, fit_rows
from .environment import cores, cuda_device, environment, gpu_device, host_device, memory
from .kernels import Broken, Maker, Unsupported, reason
from .probe import copy_rate, fastest_product, gpu_tools, launch_seconds
from .session import Report, Session
from .shapes import LEVELS, Limits, design, wide_of
from .timing import CudaTimer, HostTimer, reference_product

MODELS = ("llama-3.1-8b",)  # whose shapes are covered unless others are named
SIDES = {"cpu": (256, 512, 1024), "cuda": (4096, 8192)}  # of square products whose fastest is a peak
# Formats asked for unless others are; a processor's narrow ones are seldom of use without instructions of their own.
LEGAL = ("bf16", "fp16", "fp8", "fp32", "int8")
DTYPES = {"cuda": ("bf16", "fp16", "fp8", "fp32", "int8"), "cpu": ("fp32",)}
LAUNCH_SECONDS = {"quick": 0.12, "default": 0.5, "full": 2.0}  # of a launch at most, on a processor
REPEAT_SECONDS = {"quick": 0.15, "default": 0.4, "full": 1.0}  # repetitions of a kernel
SESSION_SECONDS = {"quick": 140.0, "default": 3600.0, "full": 6 * 3600.0}  # then what is left is left out
OPERAND_BYTES = 256e6  # of a launch on a processor at most: making random operands takes longer than the kernel


@dataclass(frozen=True)
class Options:
    """What to measure.

    Parameters
    ----------
    device : str
        cpu | cuda.
    level : str
        quick | default | full.
    models : sequence of str
    dtypes : sequence of str
        Empty for those of the device.
    out : Path
        Profile; results are appended to the same name with .jsonl.
    resume : bool
    threads : int or None
        Of torch on a processor; default the cores it may use.
    seed : int
    preset : str, optional
        Datasheet of a GPU; default by its name, or where no preset is known what the driver says and products measured.
    seconds : float, optional
        Longest session; default by level [s].
    """

    device: str = "cpu"
    level: str = "default"
    models: Sequence[str] = MODELS
    dtypes: Sequence[str] = ()
    out: Path = Path("compute.json")
    resume: bool = False
    threads: int | None = None
    seed: int = 0
    preset: str | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.device not in DTYPES:
            raise InputError(f"--device: {self.device!r} (legal: {', '.join(DTYPES)})")
        if self.level not in LEVELS:
            raise InputError(f"level: {self.level!r} (legal: {', '.join(LEVELS)})")
        for dtype in self.dtypes:
            if dtype not in LEGAL:
                raise InputError(f"--dtypes: {dtype!r} (legal: {', '.join(LEGAL)})")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise InputError(f"--threads: {self.threads} (legal: 1 to 1024)")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise InputError(f"--seconds: {self.seconds:g} (legal: a number above 0)")
        if self.out.suffix != ".json":
            raise InputError(f"--out: {self.out} (legal: a name that ends in .json)")
        if not self.out.parent.is_dir():
            raise InputError(f"--out: no folder {self.out.parent} (legal: a folder that is there)")

    @property
    def log(self) -> Path:
        """File that results are appended to."""
        return self.out.with_suffix(".jsonl")


def calibrate_compute(options: Options, report: Report | None = None) -> tuple[Fit, Session]:
    """Measure kernels and fit a profile, written to `options.out`.

    Parameters
    ----------
    options : Options
    report : callable, optional
        Is told of the progress.

    Raises
    ------
    InputError
        For options that are out of range, no torch, no such device, a file to resume that does not fit, and a session
        stopped before there was enough to fit.
    """
    begin = time.monotonic()
    torch = _torch()
    models = [load_model(name, "--model") for name in options.models]
    threads = options.threads or cores()
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if options.device == "cpu":
        torch.set_num_threads(threads)
    else:
        torch.set_float32_matmul_precision("highest")  # some containers turn fp32 into tf32
    try:
        device = cuda_device(options.preset) if options.device == "cuda" else None
        _known(options, device)
        here = environment(options.device, threads if options.device == "cpu" else 0)
        session = Session.resume(options.log, here) if options.resume else None
        timer = (
            CudaTimer(REPEAT_SECONDS[options.level])
            if options.device == "cuda"
            else HostTimer(threads, REPEAT_SECONDS[options.level], reference_product())
        )
        if session is None:
            session = Session.begin(options.log, {**here, "probe": _probe(options, models, device, timer)})
        probe = session.environment["probe"]
        if device is None:
            device = _measured_device(options, threads, probe)
        limits = _limits(options, device, probe)
        dtypes = options.dtypes or DTYPES[options.device]
        cases = design(models, dtypes, limits, options.device == "cpu", options.level, options.seed)
        most = limits.bytes if options.device == "cuda" else 4 * limits.bytes
        make = Maker(options.device, device.cache_capacity, most, options.seed)
        deadline = begin + (options.seconds or SESSION_SECONDS[options.level])
        session.measure(cases, make, timer, report, deadline)
    except KeyboardInterrupt:
        raise InputError("stopped before anything was measured") from None
    except (RuntimeError, Broken, Unsupported) as problem:  # of the first kernels there are: nothing will run
        if options.device == "cpu":
            raise
        raise InputError(f"--device: cuda: {reason(problem)} (legal: a GPU that this torch runs on)") from None
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)
    try:
        found = fit_rows(session.rows, device, session.environment)
    except InputError as problem:
        why = session.failure or ("stopped" if session.interrupted else "")
        kept = f"{why}; {len(session.rows)} results are kept in {options.log}: " if why else ""
        raise InputError(f"{kept}{problem}") from None
    found.save(options.out)
    return found, session


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise InputError("torch is not installed (legal: pip install 'commlens[torch]')") from None
    return torch


def _known(options: Options, device: Device | None) -> None:
    """Refuse formats that a datasheet does not have."""
    if device is None:
        return
    for dtype in options.dtypes:
        if dtype not in device.peak_flops:
            legal = ", ".join(name for name in LEGAL if name in device.peak_flops)
            raise InputError(f"--dtypes: {dtype!r}, which {device.name} does not have (legal: {legal})")


def _measured_device(options: Options, threads: int, probe: Mapping[str, Any]) -> Device:
    """Datasheet from what was measured before all else."""
    if "flops" not in probe:
        raise InputError(f"--resume: {options.log} was measured with a --preset (legal: the same again)")
    if options.device == "cuda":
        return gpu_device(probe["flops"], probe["bandwidth"], probe["launch"])
    return host_device(threads, probe["flops"], probe["bandwidth"], probe["launch"]["device"])


def _probe(
    options: Options, models: Sequence[Transformer], device: Device | None, timer: HostTimer | CudaTimer
) -> dict[str, Any]:
    """What the design needs to know of the device, measured: launches, and without a datasheet peaks and memory.

    Of a GPU also what of its memory is free, and which libraries run.
    """
    found: dict[str, Any] = {"launch": launch_seconds(options.device, timer)}
    if device is None:
        found |= _rates(options, timer)
    if options.device == "cuda":
        flops = found["flops"] if device is None else device.peak_flops
        wide = wide_of(options.dtypes or DTYPES["cuda"], flops)
        found["tools"] = gpu_tools(models, wide, options.seed)
        cuda = _torch().cuda
        cuda.empty_cache()  # of what was run for this
        found["free"] = cuda.mem_get_info()[0]
    return found


def _rates(options: Options, timer: HostTimer | CudaTimer) -> dict[str, Any]:
    """Peaks [FLOP/s] by format, the rate of a copy [B/s], and which formats do not run."""
    kind = options.device
    flops: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for dtype in options.dtypes or DTYPES[kind]:
        try:
            flops[dtype] = fastest_product(kind, dtype, timer, SIDES[kind])
        except Unsupported as problem:
            reasons[dtype] = str(problem)
    # Whatever is asked for, attention and elementwise kernels are taken in a wide format.
    if wide_of(tuple(flops), flops) is None:
        flops["fp32"] = fastest_product(kind, "fp32", timer, SIDES[kind])
    return {"flops": flops, "bandwidth": copy_rate(kind, timer), "unsupported": reasons}


def _limits(options: Options, device: Device, probe: Mapping[str, Any]) -> Limits:
    if options.device == "cuda":
        most = min(0.2 * probe["free"], 8e9)
        return Limits(0.1, most, device.peak_flops, device.memory_bandwidth, tools=probe["tools"])
    seconds = LAUNCH_SECONDS[options.level]
    most = min(OPERAND_BYTES, 0.02 * memory())
    return Limits(seconds, most, device.peak_flops, device.memory_bandwidth, 4096)
