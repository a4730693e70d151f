"""``commlens calibrate compute``: probe the device, design the shapes, measure them, fit, and write the profile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...hardware import Device
from ...hardware.errors import InputError
from ...models.library import load_model
from ...models.products import DTYPE_BYTES
from .compute_profile import Fit, fit_rows
from .environment import cores, cuda_device, environment, host_device, memory, processor
from .kernels import Maker, Unsupported, fastest_product, launch_seconds
from .session import Report, Session
from .shapes import LEVELS, Case, Limits, design
from .timing import CudaTimer, HostTimer, Timing, reference_product

MODELS = ("llama-3.1-8b",)  # whose shapes are covered unless others are named
SIDES = (256, 512, 1024)  # of square products whose fastest is a processor's peak
# Formats asked for unless others are; a processor's narrow ones are seldom of use without instructions of their own.
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
        Datasheet of a GPU whose name no preset fits.
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
        legal = ("bf16", "fp16", "fp8", "fp32", "int8")
        for dtype in self.dtypes:
            if dtype not in legal:
                raise InputError(f"--dtypes: {dtype!r} (legal: {', '.join(legal)})")
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
    before = torch.get_num_threads()
    if options.device == "cpu":
        torch.set_num_threads(threads)
    try:
        device = cuda_device(options.preset) if options.device == "cuda" else None
        here = environment(options.device, threads if options.device == "cpu" else 0)
        session = Session.resume(options.log, here) if options.resume else None
        timer = (
            CudaTimer(REPEAT_SECONDS[options.level])
            if device is not None
            else HostTimer(threads, REPEAT_SECONDS[options.level], reference_product())
        )
        if session is None:
            session = Session.begin(options.log, {**here, "probe": _probe(options, device, threads, timer)})
        probe = session.environment["probe"]
        if device is None:
            device = host_device(threads, probe["flops"], probe["bandwidth"], probe["launch"]["device"])
        limits = _limits(options, device)
        dtypes = options.dtypes or DTYPES[options.device]
        cases = design(models, dtypes, limits, options.device == "cpu", options.level, options.seed)
        most = limits.bytes if options.device == "cuda" else 4 * limits.bytes
        make = Maker(options.device, device.cache_capacity, most, options.seed)
        deadline = begin + (options.seconds or SESSION_SECONDS[options.level])
        session.measure(cases, make, timer, report, deadline)
    except KeyboardInterrupt:
        raise InputError("stopped before anything was measured") from None
    finally:
        torch.set_num_threads(before)
    try:
        found = fit_rows(session.rows, device, session.environment)
    except InputError as problem:
        stopped = f"stopped; {len(session.rows)} results are kept in {options.log}: " if session.interrupted else ""
        raise InputError(f"{stopped}{problem}") from None
    found.save(options.out)
    return found, session


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise InputError("torch is not installed (legal: pip install 'commlens[torch]')") from None
    return torch


def _probe(options: Options, device: Device | None, threads: int, timer: HostTimer | CudaTimer) -> dict[str, Any]:
    """What the design needs to know of the device, measured: launches, a processor's peaks, and its memory."""
    found: dict[str, Any] = {"launch": launch_seconds(options.device, timer)}
    if device is not None:
        return found
    flops: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for dtype in options.dtypes or DTYPES["cpu"]:
        try:
            flops[dtype] = fastest_product("cpu", dtype, timer, SIDES)
        except Unsupported as problem:
            reasons[dtype] = str(problem)
    # Whatever is asked for, attention and elementwise kernels are taken in a wide format.
    if not any(DTYPE_BYTES[dtype] >= 2 for dtype in flops):
        flops["fp32"] = fastest_product("cpu", "fp32", timer, SIDES)
    size = int(4 * processor()["cache"])
    copied: Timing = timer(Maker("cpu", 0.0, 3.0 * size)(Case("copy", {"size": size}, "fp32", "copy")))
    return {**found, "flops": flops, "bandwidth": 2 * size / copied.low, "unsupported": reasons}


def _limits(options: Options, device: Device) -> Limits:
    if options.device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return Limits(0.1, min(0.2 * free, 8e9), device.peak_flops, device.memory_bandwidth)
    seconds = LAUNCH_SECONDS[options.level]
    most = min(OPERAND_BYTES, 0.02 * memory())
    return Limits(seconds, most, device.peak_flops, device.memory_bandwidth, 4096)
