"""``commlens calibrate compute``: time kernels on this machine and fit a profile to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .catalog import show
from .hardware.errors import InputError

if TYPE_CHECKING:
    from .validation.measure.compute_profile import Fit
    from .validation.measure.session import Report


def compute(
    device: Annotated[str, typer.Option(help="cpu | cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Some 150 kernels, at most three minutes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Some 900 kernels, for as long as it takes.")] = False,
    dtypes: Annotated[str, typer.Option(help="Number formats, as in bf16,fp8; default those of the device.")] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="Model whose shapes to cover; repeatable. Default llama-3.1-8b.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Profile to write; raw results go beside it, as .jsonl.")] = Path(
        "compute.json"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a session was stopped.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads on a processor; default its cores.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the shapes and the operands.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Datasheet of a GPU whose name is not known.")] = None,
) -> None:
    """Time kernels on this machine and fit a profile to them."""
    from .validation.measure.compute import MODELS, Options, calibrate_compute

    if quick and full:
        raise InputError("--quick, --full: both given (legal: one of them)")
    level = "quick" if quick else "full" if full else "default"
    formats = tuple(part.strip() for part in dtypes.split(",") if part.strip())
    options = Options(device, level, tuple(model or MODELS), formats, out, resume, threads, seed, preset)
    with Shown() as shown:
        found, session = calibrate_compute(options, shown)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if session.interrupted:
        print(f"note: stopped; {session.late} kernels are left: --resume measures them", file=sys.stderr)
    elif session.late:
        print(f"note: time was up; {session.late} kernels were left out: --resume measures them", file=sys.stderr)
    _print(found)
    print(f"\nwritten to {out}, raw results to {options.log}")


class Shown:
    """Progress on stderr while something is measured; nothing where stderr is no terminal."""

    def __enter__(self) -> Report:
        """Show it."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        parts = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*parts, console=Console(stderr=True), transient=True)
        task = self.progress.add_task("probing", total=None)
        self.progress.start()

        def report(done: int, total: int, what: str) -> None:
            self.progress.update(task, completed=done, total=total, description=what)

        return report

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.progress.stop()


def _print(found: Fit) -> None:
    import pandas as pd

    device, rows = found.profile.device, []
    peaks = ", ".join(f"{name} {1e-12 * rate:.4g}" for name, rate in device.peak_flops.items())
    print(f"{device.name}: peaks [TFLOP/s] {peaks}; memory {1e-9 * device.memory_bandwidth:.4g} GB/s\n")
    for kind, score in found.profile.scores.items():
        rows.append(
            {
                "kernel": kind,
                "measured": score["rows"],
                "held out": score["held_out"],
                "numbers": score["parameters"],
                **{
                    name: f"{score[key]:.1%}" if key in score else "-"
                    for name, key in (
                        ("error, median", "median"),
                        ("mean", "mean"),
                        ("nearest row", "nearest"),
                        ("datasheet", "roofline"),
                    )
                },
            }
        )
    show(pd.DataFrame(rows))
    large = found.profile.scores.get("gemm", {}).get("large_median")
    if large is not None:
        print(f"\nproducts of 256^3 and more, held out: median error {large:.1%}")
