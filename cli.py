"""The command line: the public names of the package, one command each.

Answers go to stdout, progress and errors to stderr. Exit status 0 when done, 2 on bad input with one
line that names file, key and legal range.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .catalog import catalog, show
from .experts import place_experts
from .hardware.errors import InputError
from .models import study
from .models.scenario import Scenario
from .network import calibrate, collective, topology
from .sequences import plan_sequences

if TYPE_CHECKING:
    import pandas as pd

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

ScenarioPath = Annotated[Path, typer.Argument(help="Scenario file (YAML or JSON).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in SI units.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as in plan.tp=4; repeatable."),
]
Engine = Annotated[str, typer.Option(help="simulate (discrete-event) or estimate (closed form).")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the whole table to this file.")]

# What a table for people shows; --json and --csv have every field.
COLUMNS = [
    "time_s", "tokens_per_second", "speedup", "speedup_low", "speedup_high", "mfu", "exposed_communication_s", "fits",
]  # fmt: skip
EMPTY = ("error", "speedup_low", "speedup_high")  # not shown where no row has any
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
    span = _window(window)
    result = predict(_scenario(scenario, changes))
    if phase is not None and phase not in result.traces:
        raise InputError(f"--phase: {phase!r} (legal: {', '.join(result.traces)})")
    print(json.dumps(result.to_dict(), indent=2) if as_json else result.summary())
    if timeline:
        with _writing("--timeline", timeline):
            result.timeline(phase=phase, window=span).figure.savefig(timeline, dpi=150, bbox_inches="tight")
    if perfetto:
        with _writing("--perfetto", perfetto):
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
    case = _scenario(scenario, changes)
    names = [[_technique(part) for part in text.split("+")] for text in techniques.split(",") if text]
    with _progress("comparing") as step:
        frame = study.compare(case, names or study.applicable(case), engine, step)
    _table(frame, as_json, csv)


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
    values = {}
    for item in grid:
        key, text = _pair("--grid", item)
        values[key] = [_value("--grid", key, part) for part in text.split(",")]
    base = _scenario(scenario, changes)
    with _progress("sweeping") as step, _executor(workers) as executor:
        frame = study.sweep(base, values, executor, engine, step)
    _table(frame, as_json, csv, first=[*values], also=["error"])


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
    case = _scenario(scenario, changes)
    values: dict[str, Any] = {}
    for item in space or []:
        key, text = _pair("--space", item)
        values[key] = [_value("--space", key, part) for part in text.split(",")]
    if explain:
        from .models.search.report import explain as explained

        with _executor(workers) as executor:
            print(explained(case, space=values or None, by=by, executor=executor))
        return
    with _progress("searching") as step, _executor(workers) as executor:
        frame = study.search(
            case,
            _devices(devices),
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
    _table(
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

    for option, path in (("--csv", csv), ("--html", html), ("--markdown", markdown)):
        page.check_writable(option, path)
    executed = None
    if references:
        with _progress("running references"):
            executed = run_references(family)
    with _progress("validating") as step:
        frame = run(family, step)
    if csv:
        with _writing("--csv", csv):
            frame.to_csv(csv, index=False)
    if html or markdown:
        sections = report.sections(frame, executed)
        with _progress("drawing"):
            if html:
                with _writing("--html", html):
                    page.write_html(html, sections)
            if markdown:
                with _writing("--markdown", markdown):
                    page.write_markdown(markdown, sections)
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


def _scenario(path: Path, changes: list[str] | None) -> Any:
    scenario = Scenario.load(path)
    if not changes:
        return scenario
    pairs = (_pair("--set", item) for item in changes)
    return scenario.replace({key: _value("--set", key, text) for key, text in pairs})


def _pair(option: str, item: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    if not (key and equals and text):
        raise InputError(f"{option}: {item!r} (legal: KEY=VALUE, as in plan.tp=4)")
    return key, text


def _value(option: str, key: str, text: str) -> Any:
    """A value as a scenario file would hold it."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{option} {key}: {text!r} is not a YAML value (legal: as in a scenario file)") from None


def _devices(text: str | None) -> Any:
    """`1024`, `64..4096` or `512,768` as a search takes it."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    try:
        if dots:
            return int(low), int(high)
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--devices: {text!r} (legal: as in 1024, 64..4096 or 512,768)") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _window(text: str | None) -> tuple[float, float] | None:
    from .hardware.units import parse_time

    if text is None:
        return None
    start, comma, end = text.partition(",")
    if not comma:
        raise InputError(f"--window: {text!r} (legal: START,END, as in 2ms,2.5ms)")
    span = parse_time(start, "--window"), parse_time(end, "--window")
    if not 0 <= span[0] < span[1]:
        raise InputError(f"--window: {text!r} (legal: 0 <= START < END)")
    return span


def _technique(text: str) -> str | dict[str, Any]:
    """`t3` or `t3:arbitration=mca`."""
    name, colon, options = text.partition(":")
    if not colon:
        return name
    pairs = (_pair("--techniques", item) for item in options.split(":"))
    return {"name": name, **{key: _value("--techniques", key, value) for key, value in pairs}}


def _table(
    frame: pd.DataFrame,
    as_json: bool,
    csv: Path | None,
    first: list[str] | None = None,
    also: list[str] | None = None,
) -> None:
    named = frame.index.name is not None
    if csv:
        with _writing("--csv", csv):
            frame.to_csv(csv, index=named)
    if as_json:
        print(frame.reset_index(drop=not named).to_json(orient="records", indent=2))
        return
    chosen = [c for c in [*(first or []), *COLUMNS, *(also or [])] if c in frame]
    chosen = [c for c in chosen if c not in EMPTY or not frame[c].isna().all()]
    show(frame[chosen], index=named)


@contextmanager
def _writing(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as problem:
        raise InputError(f"{option}: cannot write {path}: {problem}") from None


@contextmanager
def _executor(workers: int) -> Iterator[Any]:
    if workers == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, from the second second on and only on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
