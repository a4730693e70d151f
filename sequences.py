"""``commlens plan-sequences``: which ranks work on which sequences, and what that takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import AsJson, count_of, scenario_of
from .console import progress, show, writing
from .hardware.errors import InputError

_TABLE = [
    "planned_s", "time_s", "speedup", "tokens_per_second", "exchange_share", "idle_share", "micro_batches", "status",
]  # fmt: skip


def plan_sequences(
    lengths: Annotated[
        str, typer.Argument(help="File of lengths (.csv, .jsonl, .parquet, .txt) or a corpus, as in wikipedia.")
    ],
    scenario: Annotated[Path | None, typer.Option(help="Training scenario (YAML or JSON).")] = None,
    method: Annotated[
        str, typer.Option(help="flexsp, bytescale, static, adaptive, packed, megascale, or all in a table.")
    ] = "flexsp",
    batch: Annotated[int, typer.Option(help="Sequences to draw; a file of no more is taken whole.")] = 512,
    tokens: Annotated[str | None, typer.Option(help="Draw sequences of so many tokens in all, as in 32M.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    max_length: Annotated[
        str | None, typer.Option(help="Drop longer sequences, as in 192000 or 2Mi (2 x 2^20).")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut longer sequences instead.")] = False,
    multiple: Annotated[int, typer.Option(help="Round lengths up to it.")] = 1,
    column: Annotated[str | None, typer.Option(help="Column, or key, that has the lengths.")] = None,
    costs: Annotated[
        str | None,
        typer.Option(help="Published costs instead of the model's: flexsp-gpt-7b, or a YAML file."),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds a solver may take; it then has its best plan.")] = 10.0,
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (.png, .svg, .pdf).")] = None,
    as_json: AsJson = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the scenario, as in plan.dp=64; repeatable."),
    ] = None,
) -> None:
    """Plan sequences of unlike length: who works on what, simulated."""
    from .models.sequences.run import batch_from, compare_sequences
    from .models.sequences.run import plan_sequences as planned

    if scenario is None and costs is None:
        raise InputError("--scenario: missing (legal: a training scenario, or --costs)")
    if changes and scenario is None:
        raise InputError("--set: changes a scenario (legal: with --scenario)")
    case = None if scenario is None else scenario_of(scenario, changes)
    if plot is not None and method == "all":
        raise InputError("--plot: of one plan (legal: with one --method)")
    drawn = batch_from(
        lengths,
        batch=count_of("--batch", str(batch)),
        seed=seed,
        column=column,
        tokens=None if tokens is None else count_of("--tokens", tokens),
        max_length=None if max_length is None else count_of("--max-length", max_length),
        over="truncate" if truncate else "drop",
        multiple=count_of("--multiple", str(multiple)),
    )
    with progress("planning") as step:
        if method == "all":
            frame, _ = compare_sequences(case, drawn, costs=costs, time_limit=time_limit, progress=step)
        else:
            found = planned(case, drawn, method, costs=costs, time_limit=time_limit, progress=step)
    if method == "all":
        if as_json:
            print(frame.reset_index().to_json(orient="records", indent=2))
            return
        print(f"{drawn.describe()}\n")
        show(frame.loc[frame["error"].isna(), [c for c in _TABLE if c in frame]], index=True)
        for name, reason in frame["error"].dropna().items():
            print(f"left out {name}: {reason}", file=sys.stderr)
        return
    print(json.dumps(found.to_dict(), indent=2) if as_json else found.summary())
    if plot:
        with writing("--plot", plot):
            figure: Any = found.plot().figure
            figure.savefig(plot, dpi=150, bbox_inches="tight")
