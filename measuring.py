"""``commlens calibrate compute``, and measured samples for ``calibrate collectives``: what is timed on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import show
from .hardware.errors import InputError

if TYPE_CHECKING:
    from .validation.logs import Sample
    from .validation.measure.compute_profile import Fit
    from .validation.measure.session import Report


def compute(
    device: Annotated[str, typer.Option(help="cpu | cuda (the first GPU that is visible).")] = "cpu",
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
    preset: Annotated[str | None, typer.Option(help="Datasheet of a GPU; default by its name, or measured.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Longest session [s]; the rest waits for --resume.")] = None,
) -> None:
    """Time kernels on this machine and fit a profile to them."""
    from .validation.measure.compute import MODELS, Options, calibrate_compute

    if quick and full:
        raise InputError("--quick, --full: both given (legal: one of them)")
    level = "quick" if quick else "full" if full else "default"
    formats = tuple(part.strip() for part in dtypes.split(",") if part.strip())
    options = Options(device, level, tuple(model or MODELS), formats, out, resume, threads, seed, preset, seconds)
    with Shown() as shown:
        found, session = calibrate_compute(options, shown)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if session.interrupted:
        print(f"note: stopped; {session.late} kernels are left: --resume measures them", file=sys.stderr)
    elif session.failure:
        print(
            f"note: the device runs nothing any more: {session.failure}; {session.late} kernels are left",
            file=sys.stderr,
        )
    elif session.late:
        print(f"note: time was up; {session.late} kernels were left out: --resume measures them", file=sys.stderr)
    _print(found)
    print(f"\nwritten to {out}, raw results to {options.log}")
    if session.interrupted:
        raise typer.Exit(130)


def from_table(
    table: Annotated[
        Path, typer.Argument(help="Times of kernels (.csv): kernel, gpu, dtype, shape, time_us, tool, source.")
    ],
    device: Annotated[str, typer.Option(help="Device whose rows to fit: a preset's name.")],
    out: Annotated[Path, typer.Option(help="Profile to write (.json), for a device to name.")] = Path("kernels.json"),
) -> None:
    """Fit a profile of kernels to a table of published times."""
    from .validation.from_table import fit_table, report

    if out.suffix != ".json":
        raise InputError(f"--out: {out} (legal: a name that ends in .json)")
    profile = fit_table(table, device)
    try:
        profile.save(out)
    except OSError as problem:
        raise InputError(f"--out: cannot write {out}: {problem.strerror or problem}") from None
    print(report(table, profile))
    print(f"\nwritten to {out}; use it as  device: {{preset: {profile.device.name}, profile: {out}}}")


def measured_collectives(
    backend: str, nproc: int | None, sizes: list[float], out: Path | None, timeout: float, notes: list[str]
) -> list[Sample] | None:
    """Measure collectives, fit latencies and rates of each kind, and say how far they hold.

    Parameters
    ----------
    backend : str
        gloo | nccl.
    nproc : int, optional
        Ranks to start.
    sizes : list of float
        Bytes.
    out : Path, optional
        File of the profile of a link; results and the profile of kinds go beside it, as .jsonl and .json.
    timeout : float
        Seconds without a result after which ranks are taken to hang.
    notes : list of str
        What could not be measured is appended.

    Returns
    -------
    list of Sample or None
        None on ranks of torchrun that have nothing to say.
    """
    from .validation.measure import collective_profile
    from .validation.measure.collectives import measure_collectives, under_torchrun

    beside = Path("collectives.yaml") if out is None else out
    log, target = beside.with_suffix(".jsonl"), beside.with_suffix(".json")
    collective_profile.check_sizes(sizes)
    if under_torchrun():
        found = measure_collectives(backend, sizes, log, nproc, timeout=timeout)
    else:
        with Shown() as shown:
            found = measure_collectives(backend, sizes, log, nproc, shown, timeout)
    if found is None:
        return None
    notes += found.notes
    if backend == "gloo":
        notes.append("reduce_scatter: partial sums around a ring; gloo's own is one all-reduce per rank")
    profile = collective_profile.fit_samples(found.samples, collective_profile.device_of(backend))
    collective_profile.save(profile, found.log, target)
    score = profile.scores["collective"]
    large = f"from 1 MiB {score['large_median']:.1%}; " if "large_median" in score else ""
    print(
        f"{score['rows']} samples, latency and rate by kind: error left out {score['median']:.1%} median, {large}"
        f"nearest size {score['nearest']:.1%}; written to {target}, raw results to {log}"
    )
    if found.interrupted:
        print(f"note: {found.notes[-1]}", file=sys.stderr)
        raise typer.Exit(130)
    return found.samples


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
        print(f"\nproducts of 256^3 and more, left out: median error {large:.1%}")
