"""The command line: the public names of the package, one command each.

Answers go to stdout, progress and errors to stderr. Exit status 0 when done, 2 on bad input with one
line that names file, key and legal range.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import (
    AsJson,
    Csv,
    Engine,
    ScenarioPath,
    Set,
    devices_of,
    grid_of,
    scenario_of,
    techniques_of,
    window_of,
)
from .catalog import catalog
from .console import progress, table, writing
from .experts import place_experts
from .hardware.errors import InputError
from .models import study
from .network import calibrate, collective, topology
from .sequences import plan_sequences

app = typer.Typer(
    name="commlens",
    help="What a communication technique buys, before it is built.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(catalog, name="list")
app.add_typer(calibrate, name="calibrate")
app.command()(collective)
app.command()(topology)
app.command()(plan_sequences)
app.command()(place_experts)

PLAN_COLUMNS = [
    "pp", "cp", "ep", "etp", "vp", "schedule", "sequence_parallel", "zero", "recompute", "offload",
    "micro_batch", "devices",
]  # fmt: skip


@app.command()
def simulate(
    scenario: ScenarioPath,
    as_json: AsJson = False,
    changes: Set = None,
    engine: Engine = "simulate",
    timeline: Annotated[Path | None, typer.Option(help="Write a timeline picture here (.png, .svg, .pdf).")] = None,
    perfetto: Annotated[
        Path | None,
        typer.Option(help="Write a trace for ui.perfetto.dev here (.json or .json.gz)."),
    ] = None,
    phase: Annotated[str | None, typer.Option(help="Phase to draw; default the last.")] = None,
    window: Annotated[str | None, typer.Option(help="Part to draw, as in 2ms,2.5ms; default all.")] = None,
) -> None:
    """Predict one scenario."""
    predict = study.engine_of(engine)
    if (timeline or perfetto) and engine == "estimate":
        raise InputError("--timeline, --perfetto: an estimate has no trace (legal: --engine simulate)")
    span = window_of(window)
    result = predict(scenario_of(scenario, changes))
    if phase is not None and phase not in result.traces:
        raise InputError(f"--phase: {phase!r} (legal: {', '.join(result.traces)})")
    print(json.dumps(result.to_dict(), indent=2) if as_json else result.summary())
    if timeline:
        with writing("--timeline", timeline):
            result.timeline(phase=phase, window=span).figure.savefig(timeline, dpi=150, bbox_inches="tight")
    if perfetto:
        with writing("--perfetto", perfetto):
            result.to_perfetto(perfetto, phase=phase)


@app.command()
def compare(
    scenario: ScenarioPath,
    techniques: Annotated[
        str, typer.Option(help="Comma-separated names, a+b for two together; default all that can be used.")
    ] = "",
    as_json: AsJson = False,
    changes: Set = None,
    engine: Engine = "simulate",
    csv: Csv = None,
) -> None:
    """Predict one scenario with each of several techniques."""
    case = scenario_of(scenario, changes)
    names = techniques_of(techniques)
    with progress("comparing") as step:
        frame = study.compare(case, names or study.applicable(case), engine, step)
    table(frame, as_json, csv)


@app.command()
def sweep(
    scenario: ScenarioPath,
    grid: Annotated[list[str], typer.Option("--grid", metavar="KEY=V1,V2", help="Values of a key; repeatable.")],
    as_json: AsJson = False,
    changes: Set = None,
    engine: Engine = "simulate",
    csv: Csv = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes to spread the points over.")] = 1,
) -> None:
    """Predict every combination of the values of some keys."""
    values = grid_of("--grid", grid)
    base = scenario_of(scenario, changes)
    with progress("sweeping") as step, _executor(workers) as executor:
        frame = study.sweep(base, values, executor, engine, step)
    table(frame, as_json, csv, first=[*values], also=["error"])


@app.command()
def search(
    scenario: ScenarioPath,
    devices: Annotated[
        str | None,
        typer.Option(help="How many: 1024; 64..4096 for 64, 128, and so on; 512,768. Default all of the cluster."),
    ] = None,
    as_json: AsJson = False,
    changes: Set = None,
    csv: Csv = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table here (.csv or .parquet).")] = None,
    keep: Annotated[int, typer.Option(help="Plans to list at most.")] = 100,
    by: Annotated[str, typer.Option(help="Rank by time, throughput or cost.")] = "time",
    price: Annotated[float | None, typer.Option(help="Of a device-hour; adds the cost of a million tokens.")] = None,
    space: Annotated[
        list[str] | None, typer.Option("--space", metavar="KEY=V1,V2", help="Only these values of a key; repeatable.")
    ] = None,
    top: Annotated[int, typer.Option("--simulate", help="Simulate this many of the best, too.")] = 0,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes to spread the plans over.")] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="Rank the scenario's own plan and say why.")] = False,
) -> None:
    """Find plans that fit, best first."""
    case = scenario_of(scenario, changes)
    values = grid_of("--space", space or [])
    if explain:
        from .models.search.report import explain as explained

        with _executor(workers) as executor:
            print(explained(case, space=values or None, by=by, executor=executor))
        return
    with progress("searching") as step, _executor(workers) as executor:
        frame = study.search(
            case,
            devices_of(devices),
            step,
            keep=keep,
            by=by,
            simulate=top,
            price=price,
            space=values or None,
            executor=executor,
            out=out,
        )
    alike = {key: frame[key].iloc[0] for key in PLAN_COLUMNS if key in frame and frame[key].astype(str).nunique() == 1}
    differ = [key for key in PLAN_COLUMNS if key in frame and key not in alike]
    table(
        frame, as_json, csv, first=["tp", "dp", *differ], also=["memory", "cost_per_million_tokens", "simulated_time_s"]
    )
    found = frame.attrs
    print(f"{found['evaluated']:,} plans, {found['fits']:,} fit, {found['seconds']:.1f} s", file=sys.stderr)
    if alike:
        print("in all of them: " + ", ".join(f"{key} {value}" for key, value in alike.items()), file=sys.stderr)
    for plan, reason in found["rejected"].items():
        print(f"left out {plan}: {reason}", file=sys.stderr)


@app.command()
def validate(
    family: Annotated[str | None, typer.Option(help="One family; default all.")] = None,
    as_json: AsJson = False,
    csv: Csv = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with figures here, one file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write Markdown here, its figures beside it.")] = None,
    references: Annotated[
        bool, typer.Option("--references", help="Also run techniques on real processes, for minutes; needs torch.")
    ] = False,
) -> None:
    """Hold predictions against published results."""
    from .validation import page, report
    from .validation import validate as run
    from .validation.executed import run as run_references

    files = {option: path for option, path in (("--csv", csv), ("--html", html), ("--markdown", markdown)) if path}
    for option, path in files.items():
        page.check_writable(option, path)
    if len({path.resolve() for path in files.values()}) < len(files):
        raise InputError(f"{', '.join(files)}: one file for several (legal: a file each)")
    executed = None
    if references:
        with progress("running references"):
            executed = run_references(family)
    with progress("validating") as step:
        frame = run(family, step)
    if csv:
        with writing("--csv", csv):
            frame.to_csv(csv, index=False)
    if html or markdown:
        sections = report.sections(frame, executed)
        with progress("drawing"):
            if html:
                with writing("--html", html):
                    page.write_html(html, sections)
            if markdown:
                with writing("--markdown", markdown):
                    page.write_markdown(markdown, sections)
    if as_json:
        for skipped in frame.attrs.get("skipped", ()):
            print(f"note: left out: {skipped}", file=sys.stderr)
    print(report.to_json(frame, executed) if as_json else report.text(frame, executed))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        app(arguments, standalone_mode=False)
    except InputError as problem:
        sys.exit(_fail(str(problem)))
    except typer.TyperException as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # its message is the help text
            print(problem.format_message(), file=sys.stderr)
            sys.exit(2)
        sys.exit(_fail(problem.format_message()))
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output is gone
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@contextmanager
def _executor(workers: int) -> Iterator[Any]:
    if workers == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool
