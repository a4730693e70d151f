"""``commlens place-experts``: which device holds which experts, and what that saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import AsJson
from .console import progress, writing
from .hardware.errors import InputError


def place_experts(
    trace: Annotated[str, typer.Argument(help="Routing trace (.npz, .parquet) or a shipped one, as in stdlib-moe.")],
    cluster: Annotated[str, typer.Option(help="Cluster: a preset's name, or a YAML file.")] = "dgx-h100",
    devices: Annotated[int | None, typer.Option(help="The first so many of the cluster; default all.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes of the cluster, where not those of the preset.")] = None,
    balance: Annotated[
        str, typer.Option(help="hard (every layer even) or penalised (even in all layers, loads spread).")
    ] = "hard",
    replicas: Annotated[
        int | None, typer.Option(help="Places for experts on a device and layer; free ones take copies.")
    ] = None,
    slots: Annotated[str, typer.Option(help="Experts of a token whose moves count: first or all.")] = "first",
    time_limit: Annotated[float, typer.Option(help="Seconds the solver may take; it then has its best.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the solver.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the placement here (.json), as workload.routing.placement takes it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture of traffic here (.png, .svg, .pdf).")] = None,
    as_json: AsJson = False,
) -> None:
    """Place experts so that tokens seldom change device, and seldomer node."""
    from .models.routing.place import place

    if out is not None and out.suffix != ".json":
        raise InputError(f"--out: {out} (legal: a .json file)")
    for option, path in (("--out", out), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option}: cannot write {path}: no folder {path.parent}")
    what: Any = cluster if nodes is None else {"preset": cluster, "nodes": nodes}
    with progress("placing") as step:
        found = place(
            trace,
            what,
            devices=devices,
            balance=balance,
            replicas=replicas,
            slots=slots,  # type: ignore[arg-type]
            time_limit=time_limit,
            seed=seed,
            progress=step,
        )
    print(json.dumps(found.to_dict(), indent=2) if as_json else found.summary())
    if out:
        found.save(out)
    if plot:
        with writing("--plot", plot):
            found.plot().savefig(plot, dpi=150, bbox_inches="tight")
