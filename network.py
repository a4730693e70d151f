"""``commlens collective``, ``topology`` and ``calibrate``: what a fabric makes of messages, and learning it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import AsJson
from .console import show
from .hardware.errors import InputError
from .measuring import compute, from_table, measured_collectives

calibrate = typer.Typer(help="Fit models to your own measurements.", no_args_is_help=True, rich_markup_mode=None)
calibrate.command()(compute)
calibrate.command("from-table")(from_table)

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
    as_json: AsJson = False,
) -> None:
    """Predict a collective alone on a fabric, over a range of sizes."""
    import pandas as pd

    from .hardware import load_cluster
    from .simulator.communicator import Communicator
    from .validation.logs.sample import bus_factor

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


def topology(
    source: Annotated[
        str, typer.Argument(help="Cluster preset or YAML file, output of nvidia-smi topo -m, or NCCL's topology XML.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print every vertex and link as JSON in SI units.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file (.png, .svg, .pdf).")] = None,
) -> None:
    """Show a machine or a cluster's network as it is understood: what is joined, and how fast."""
    import pandas as pd

    from .hardware.units import format_rate, format_time

    fabric = _topology(source)
    if plot:
        from .simulator.drawing import draw_topology

        try:
            draw_topology(fabric).savefig(plot, dpi=150, bbox_inches="tight")
        except (OSError, ValueError) as problem:
            raise InputError(f"--plot: cannot write {plot}: {problem}") from None
    if as_json:
        ends = zip(fabric.source.tolist(), fabric.target.tolist(), strict=True)
        links = [
            {
                "from": fabric.vertices[a],
                "to": fabric.vertices[b],
                "bandwidth": float(fabric.bandwidth[i]),
                "latency": float(fabric.latency[i]),
                "resource": int(fabric.resource[i]),
            }
            for i, (a, b) in enumerate(ends)
        ]
        vertices = [{"name": name, "kind": kind} for name, kind in zip(fabric.vertices, fabric.kinds, strict=True)]
        print(json.dumps({"name": fabric.name, "ranks": fabric.ranks, "vertices": vertices, "links": links}, indent=2))
        return
    counts = {kind: fabric.kinds.count(kind) for kind in dict.fromkeys(fabric.kinds)}
    plural = {"switch": "switches"}
    said = [f"{n} {kind if n == 1 else plural.get(kind, kind + 's')}" for kind, n in counts.items()]
    print(f"{fabric.name}: {', '.join(said)}")
    table = pd.DataFrame(
        {
            "from": [fabric.kinds[v] for v in fabric.source],
            "to": [fabric.kinds[v] for v in fabric.target],
            "bandwidth": [format_rate(float(b)) for b in fabric.bandwidth],
            "latency": [format_time(float(t)) for t in fabric.latency],
        }
    )
    show(table.value_counts(sort=False).rename("links").reset_index())


@calibrate.command()
def collectives(
    logs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="LOG...", help="Output of nccl-tests or rccl-tests (text or JSON), PyTorch profiler traces."
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Measure here instead: gloo | nccl, among local processes or under torchrun.")
    ] = None,
    nproc: Annotated[int | None, typer.Option(help="Local processes to measure among.")] = None,
    sizes: Annotated[str, typer.Option(help="Sizes to measure: START:END (times 4 each) or a list.")] = "1KiB:64MiB",
    timeout: Annotated[float, typer.Option(help="Seconds without a result after which ranks hang.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="Write the profile here (.yaml), for a link to name.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Cluster they were measured on; default a switch.")] = None,
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "profile",
    ranks: Annotated[int | None, typer.Option(help="Ranks, where a log does not say.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes, where a log does not say.")] = None,
    kind: Annotated[str | None, typer.Option(help="Collective, where a log does not say.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit latencies, rates and protocol break-points to measured collectives."""
    from dataclasses import asdict

    from .hardware import load_cluster
    from .hardware.profile import PROTOCOLS
    from .validation.calibrate import calibrate as fit
    from .validation.calibrate import source_of
    from .validation.logs import read_log
    from .validation.profile_file import profile_text

    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out: {out} (legal: a name that ends in .yaml)")
    if (backend is None) == (not logs):
        raise InputError("calibrate collectives: LOG and --backend (legal: logs of runs, or a backend to measure with)")
    if not 0 < timeout < float("inf"):
        raise InputError(f"--timeout: {timeout:g} (legal: seconds, above 0)")
    place = None if cluster is None else load_cluster(_cluster(cluster), "--cluster")
    said: list[str] = []
    if backend is not None:
        measured = measured_collectives(backend, nproc, _sizes(sizes), out, timeout, said)
        if measured is None:  # a rank of torchrun that has nothing to say
            return
        samples = measured
    else:
        samples = read_log(logs or [], ranks=ranks, nodes=nodes, kind=kind, notes=said)
    found = fit(samples, place, name)
    if out is not None:
        wire = (
            f"{place.name}, {place.link.name}" if place else "a quarter above the best sample; only ratios to it count"
        )
        origin = source_of(logs or [], samples)
        text = profile_text(found.profile, f"{name}: collectives as measured.", origin, wire)
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise InputError(f"--out: cannot write {out}: {problem.strerror or problem}") from None
    notes = [*said, *found.notes]
    if as_json:
        parts = {key: value for key, value in asdict(found.profile).items() if key != "sources"}
        tables = {key: getattr(found, key).to_dict(orient="records") for key in ("errors", "breaks")}
        print(json.dumps({"samples": len(samples), "profile": parts, **tables, "notes": notes}, indent=2))
        return
    print(f"{len(samples)} samples; {len(found.fitted.free)} numbers fitted. Error of samples left out, mean:\n")
    table = found.errors.assign(
        **{key: [f"{value:.1%}" for value in found.errors[key]] for key in ("error", "trivial")}
    )
    show(table)
    print("\nProtocols (time = base + steps hop + (steps + copy) chunk / rate):\n")
    bandwidth = found.profile.link_bandwidth or 0.0
    rows = []
    for key in PROTOCOLS:
        part = getattr(found.profile, key)
        rows.append(
            {
                "protocol": key.replace("_", ", "),
                "base (us)": 1e6 * part.base,
                "hop (us)": 1e6 * part.hop,
                "rate (GB/s)": 1e-9 * part.efficiency * bandwidth,
                "copy": part.copy,
            }
        )
    if found.profile.in_switch is not None:
        switch = found.profile.in_switch
        rate = 1e-9 * switch.efficiency * bandwidth
        rows.append({"protocol": "in switch", "base (us)": 1e6 * switch.base, "rate (GB/s)": rate})
    import pandas as pd

    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-"))
    if len(found.breaks):
        print("\nBreak-points:\n")
        show(found.breaks.assign(**{"from": [f"{size:.0f} B" for size in found.breaks["from"]]}))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if out is not None:
        print(f"\nwritten to {out}; use it as  link: {{preset: ..., profile: {out}}}")


@calibrate.callback()
def _calibrate() -> None:
    """Fit models to your own measurements."""


def _topology(source: str) -> Any:
    from .hardware import cluster_names, load_cluster
    from .hardware.fabrics import build_topology

    if source.endswith(".xml"):
        return build_topology("nccl_xml", {"file": source}, source)
    if source.endswith((".yaml", ".yml", ".json", "}")) or source in cluster_names():
        return load_cluster(_cluster(source), "cluster").topology()
    if not Path(source).is_file():
        return load_cluster(source, "cluster").topology()  # for its error, which names the presets
    return build_topology("topo_matrix", {"file": source}, source)


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
