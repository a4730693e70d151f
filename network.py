"""``commlens collective`` and ``commlens calibrate``: what a fabric makes of a message, and learning it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .catalog import show
from .hardware.errors import InputError

calibrate = typer.Typer(help="Fit models to your own measurements.", no_args_is_help=True, rich_markup_mode=None)

OPERATIONS = "all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, reduce, send_recv"


def collective(
    cluster: Annotated[
        str, typer.Option(help="Cluster preset, YAML file, or inline as in '{preset: dgx-h100, nodes: 4}'.")
    ],
    operation: Annotated[str, typer.Option("--op", help=OPERATIONS)] = "all_reduce",
    sizes: Annotated[
        str, typer.Option(help="Sizes as START:END (times 4 each) or a list, as in 8MiB,1GiB.")
    ] = "1KiB:4GiB",
    ranks: Annotated[int | None, typer.Option(min=1, help="Ranks in the group; default all of the cluster.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="Pin an algorithm; default the library's choice.")] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Show every algorithm and protocol, not the choice alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in SI units.")] = False,
) -> None:
    """Predict a collective alone on a fabric, over a range of sizes."""
    import pandas as pd

    from .hardware import load_cluster
    from .simulator.communicator import Communicator

    place = load_cluster(_cluster(cluster), "--cluster")
    members = place.size if ranks is None else ranks
    if members > place.size:
        raise InputError(f"--ranks: {members} of a cluster of {place.size} (legal: 1 to {place.size})")
    group = Communicator(place, members)
    rows: list[dict[str, Any]] = []
    for size in _sizes(sizes):
        if every and members > 1:
            found = [(name, protocol, float(time)) for name, protocol, time in group.options(operation, size)]
        else:
            cost = group.collective(operation, size, algorithm)
            found = [(cost.algorithm, cost.protocol, cost.time)]
        for name, protocol, time in found:
            rows.append(
                {
                    "size": size,
                    "time_s": time,
                    "algorithm": name,
                    "protocol": protocol,
                    "algorithm_bandwidth": size / time if time else 0.0,
                    "bus_bandwidth": size / time * bus_factor(operation, members) if time else 0.0,
                }
            )
    if as_json:
        print(json.dumps({"cluster": place.name, "operation": operation, "ranks": members, "sizes": rows}, indent=2))
        return
    print(f"{operation} among {members} ranks of {place.name}; sizes and bandwidths as nccl-tests counts them")
    frame = pd.DataFrame(
        [
            {
                "size (B)": f"{row['size']:.0f}",
                "time (us)": f"{1e6 * row['time_s']:.2f}",
                "algbw (GB/s)": f"{1e-9 * row['algorithm_bandwidth']:.2f}",
                "busbw (GB/s)": f"{1e-9 * row['bus_bandwidth']:.2f}",
                "algorithm": row["algorithm"],
                "protocol": row["protocol"],
            }
            for row in rows
        ]
    )
    show(frame)


def bus_factor(operation: str, ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests has it (doc/PERFORMANCE.md)."""
    if operation == "all_reduce":
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if operation in ("all_gather", "reduce_scatter", "all_to_all") else 1.0


def _cluster(text: str) -> Any:
    """A preset's name, a file, or a mapping written on the command line."""
    if not text.lstrip().startswith("{"):
        return text
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--cluster: {text!r:.60} is not a YAML mapping (legal: as in a scenario file)") from None


def _sizes(text: str) -> list[float]:
    from .hardware.units import parse_size

    start, colon, end = text.partition(":")
    if not colon:
        found = [parse_size(part, "--sizes") for part in text.split(",")]
    else:
        low, high = parse_size(start, "--sizes"), parse_size(end, "--sizes")
        found = []
        while 0 < low <= high:
            found.append(low)
            low *= 4
    if not found or min(found) <= 0:
        raise InputError(f"--sizes: {text!r} (legal: START:END with START at most END, or a list of sizes)")
    return found
