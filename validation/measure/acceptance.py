"""Does a profile predict what it has not seen? ``python -m commlens.validation.measure.acceptance``.

Calibrates this machine's processor, predicts, and only then runs: left-out products, a whole transformer layer,
left-out collectives, and the layer divided over two and four processes. With ``--device cuda`` it is products and a
layer of the GPU. Every line is predicted over measured, beside the same by the datasheet alone.

A profile holds at one pace of the machine: a reference product beside every measurement says how far it was from that
one, and times are compared at the profile's. Processes that wait for each other are timed by the clock on the wall, so
other programs have to rest; the share of a core that a product got before and after says whether they did.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...hardware import Device
from ...hardware.errors import InputError
from ...models.estimators import KernelProfile
from . import collective_profile
from .collectives import measure_collectives, measure_layer
from .compute import DTYPES, Options, calibrate_compute
from .environment import cores
from .kernels import Maker
from .layer import LayerShape, build, predict, shared
from .shapes import Case, wide_of
from .timing import CudaTimer, HostTimer, Timing, reference_product

SIZES = tuple(float(2**power) for power in range(12, 27))  # 4 KiB to 64 MiB
RANKS = (2, 4)
GPU_LAYER = LayerShape(4096, 32, 14336, 2, 2048)  # of a model of 8e9 parameters, long enough to fill a GPU
ALL_REDUCES = 4  # of a divided layer: after each half, forward and backward
SIDE = 512
QUIET = 0.9  # share of a core below which other programs are at work
BARS = {"products": 0.15, "layer": 0.20, "collectives": 0.25, "divided": 0.30}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing predicted and measured.

    Parameters
    ----------
    name : str
    predicted, measured, datasheet : float or None
        Seconds, at the pace of the profile; None where the line is of many, whose error is a median.
    error : float
        Relative; of many their median.
    datasheet_error : float
    bar : float
        Largest error that passes.
    pace : float
        Time of the reference product beside it over that of the profile.
    """

    name: str
    predicted: float | None
    measured: float | None
    datasheet: float | None
    error: float
    datasheet_error: float
    bar: float
    pace: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether the error is within the bar."""
        return self.error <= self.bar

    def text(self) -> str:
        """As printed."""
        times = ""
        if self.predicted is not None and self.measured is not None and self.datasheet is not None:
            ratio, sheet = self.predicted / self.measured, self.datasheet / self.measured
            times = (
                f"predicted {self.predicted:.4g} s, measured {self.measured:.4g} s"
                f" ({self.measured * self.pace:.4g} s at {self.pace:.2f} times as slow a pace),"
                f" ratio {ratio:.2f} (datasheet {sheet:.2f}); "
            )
        said = "passed" if self.passed else "missed"
        return (
            f"{self.name}: {times}error {self.error:.1%} (datasheet {self.datasheet_error:.1%}; at most {self.bar:.0%})"
            f" {said}"
        )


def one(name: str, predicted: float, timing: Timing, datasheet: float, profile: KernelProfile, bar: float) -> Line:
    """Line of a single time, at the pace of the profile."""
    measured = timing.at(profile.source.get("reference", 0.0))
    error, without = (abs(value / measured - 1) for value in (predicted, datasheet))
    return Line(name, predicted, measured, datasheet, error, without, bar, timing.seconds / measured)


def products(profile: KernelProfile) -> Line:
    """Left-out products of 256^3 and more."""
    score = profile.scores["gemm"]
    if "large_median" not in score:
        raise InputError("no product of 256^3 or more was left out (legal: a session of more kernels)")
    name = f"products left out, {score['large']} of 256^3 and more"
    return Line(name, None, None, None, score["large_median"], score["large_roofline"], BARS["products"])


def layer(shape: LayerShape, device: Device, profile: KernelProfile, seconds: float, gpu: str = "") -> Line:
    """A whole layer, forward and backward: on one thread, or on a GPU with that backend of attention."""
    import torch

    predicted, datasheet = (sum(predict(shape, each).values()) for each in (device, profile.device))
    print(f"predicted, and not yet run: layer {predicted:.4g} s", flush=True)
    if gpu:
        timing = CudaTimer(seconds)(build(shape, device="cuda", tool=gpu))
    else:
        torch.set_num_threads(1)
        timing = HostTimer(1, seconds, reference_product())(build(shape))
    return one("layer", predicted, timing, datasheet, profile, BARS["layer"])


def collectives(folder: Path, kinds: Sequence[str], budget: float) -> tuple[KernelProfile, Line]:
    """Left-out sizes of 1 MiB and more among two and four processes, and the profile fitted to all."""
    samples = []
    for ranks in RANKS:
        found = measure_collectives(
            "gloo", SIZES, folder / f"collectives-{ranks}.jsonl", ranks, kinds=kinds, budget=budget
        )
        assert found is not None
        samples += found.samples
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
    profile = collective_profile.fit_samples(samples, collective_profile.device_of("gloo"))
    score = profile.scores["collective"]
    name = f"collectives left out, {score['large']} of 1 MiB and more"
    return profile, Line(name, None, None, None, score["large_median"], score["roofline"], BARS["collectives"])


def divided(
    shape: LayerShape,
    ranks: int,
    device: Device,
    profile: KernelProfile,
    wires: KernelProfile,
    folder: Path,
    seconds: float,
) -> Line:
    """The layer over several processes, predicted before it is run."""
    turns = max(1.0, ranks / cores())
    devices = (shared(device, wires.device), profile.device)
    computed, ideal = (sum(predict(shape, each, ranks, turns).values()) for each in devices)
    kind = wires.estimators["collective"]
    reduction = {"size": shape.message, "ranks": float(ranks), "operation": "all_reduce"}
    predicted = computed + ALL_REDUCES * float(kind.predict(reduction)[0])
    datasheet = ideal + ALL_REDUCES * float(kind.roofline(reduction)[0])
    print(f"predicted, and not yet run: layer over {ranks} processes {predicted:.4g} s", flush=True)
    timing, ran = measure_layer(asdict(shape), ranks, folder / f"layer-{ranks}.jsonl", seconds)
    print(f"predicted to compute {computed / turns:.4g} s; a rank's thread ran {ran:.4g} s of {timing.seconds:.4g} s")
    return one(f"layer over {ranks} processes", predicted, timing, datasheet, profile, BARS["divided"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate, predict, run; 0 where every line is within its bar, 1 where one is not, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m commlens.validation.measure.acceptance", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=DTYPES, help="cpu | cuda")
    parser.add_argument("--level", default="quick", help="quick | default | full")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the repetitions of a layer")
    parser.add_argument("--profile", help="compute profile measured before on one thread; default a new one")
    parser.add_argument("--keep", help="folder for profiles and raw results; default none is kept")
    parser.add_argument("--no-collectives", action="store_true", help="compute alone")
    options: Any = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            lines = (_gpu_lines if options.device == "cuda" else _lines)(options, Path(options.keep or folder))
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0 if all(line.passed for line in lines) else 1


def _lines(options: Any, folder: Path) -> list[Line]:
    """Every line, printed as it comes."""
    before, share = _speed()
    print(f"this machine: a product of 512^3 at {before / 1e9:.1f} GFLOP/s, on {share:.0%} of a core", flush=True)
    path = _calibrated(options, folder, 1)
    profile = KernelProfile.load(path)
    device, shape = replace(profile.device, profile=str(path)), LayerShape()
    lines: list[Line] = []

    def add(line: Line) -> None:
        lines.append(line)
        print(line.text(), flush=True)

    add(products(profile))
    add(layer(shape, device, profile, options.seconds))
    if not options.no_collectives:
        wires, line = collectives(folder, ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), 0.3)
        add(line)
        for ranks in RANKS:
            add(divided(shape, ranks, device, profile, wires, folder, options.seconds))
    after, left = _speed()
    print(f"at the end: {after / 1e9:.1f} GFLOP/s, on {left:.0%} of a core")
    if min(share, left) < QUIET:
        print("note: other programs hold the cores: times by the wall say little", file=sys.stderr)
    return lines


def _gpu_lines(options: Any, folder: Path) -> list[Line]:
    """Products left out, and a layer in the format and with the attention that the profile is of."""
    path = _calibrated(options, folder, None)
    profile = KernelProfile.load(path)
    tools = json.loads(path.read_text(encoding="utf-8"))["environment"]["probe"]["tools"]["attention_prefill"]
    fitted = profile.estimators.get("attention_prefill")
    main = next(tool for tool in tools if fitted is None or tool not in fitted.tools_)
    shape = replace(GPU_LAYER, dtype=wide_of(DTYPES["cuda"], profile.device.peak_flops) or GPU_LAYER.dtype)
    lines = [products(profile)]
    print(lines[0].text(), flush=True)
    lines.append(layer(shape, replace(profile.device, profile=str(path)), profile, options.seconds, main))
    print(lines[1].text(), flush=True)
    return lines


def _calibrated(options: Any, folder: Path, threads: int | None) -> Path:
    """Profile of this machine: one measured before, or a new one."""
    path = Path(options.profile) if options.profile else folder / "compute.json"
    if options.profile is None:
        calibrate_compute(Options(options.device, options.level, threads=threads, out=path))
    return path


def _speed() -> tuple[float, float]:
    """Rate of a product [FLOP/s], and the share of the time in which this process had the core."""
    import torch

    torch.set_num_threads(1)
    took = HostTimer(1, 1.0)(Maker("cpu", 0.0, 1e9)(Case("gemm", {"m": SIDE, "n": SIDE, "k": SIDE}, "fp32")))
    return 2.0 * SIDE**3 / took.seconds, min(1.0, took.seconds / took.wall)


if __name__ == "__main__":
    sys.exit(main())
