"""Collective times against published runs (not shipped; see COMMLENS_MEASURED)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ..hardware import Cluster, load_cluster
from ..simulator.algorithms import KINDS
from ..simulator.communicator import Communicator
from .claims import MEASURED, Row, read_measured
from .sizes import MIB, size_class

FAMILY = "network"
OPS = {"alltoall": "all_to_all", "sendrecv": "send_recv", "allreduce": "all_reduce", "allgather": "all_gather"}
# Tables name a device in their own ways; the first of these words found in the name is meant.
NVLINKED = {
    "gb300": "gb300-nvl72",
    "gb200": "gb200-nvl72",
    "b300": "hgx-b300",
    "b200": "hgx-b200",
    "h200": "hgx-h200",
    "h100": "dgx-h100",
    "h800": "hgx-h800",
    "h20": "hgx-h20",
    "a100": "dgx-a100",
}
OTHERS = {
    "l40s": "l40s-pcie",
    "rtx": "rtx-pro-6000-pcie",
    "l20": "pcie-8",
    "a40": "a40-pairs",
    "mi355": "mi350x-8",
    "mi350": "mi350x-8",
    "mi300": "mi300x-8",
    "mi325": "mi300x-8",
}
PAIRS = {"h100": "h100-pairs", "a100": "a100-pairs", "a40": "a40-pairs"}
ADAPTERS = {"efa": "efa400", "cx8": "xdr800", "xdr": "xdr800", "cx7": "ndr400", "ndr": "ndr400"}
# What torch.distributed adds to a call timed from Python: `fit_fabrics` prints the median over runs of
# ml-engineering's all_reduce_bench.py on H200 and B200, beside the profiles fitted to nccl-tests.
TORCH_CALL = 20e-6
WAITING = "kernel time of three profiled calls, waiting for the peer included; not a transfer time at small sizes"
UNDOCUMENTED = "the network between the nodes is not documented"
BROKEN = "no peer-to-peer on the host, by the table's own note"


def nodes_of(row: Mapping[str, str]) -> int:
    """Nodes of a row; one where the table leaves it out."""
    return int(float(row["n_nodes"] or 1))


def cluster_of(row: Mapping[str, str]) -> dict[str, Any] | None:
    """Cluster mapping for a row of the measured table, or None for a device no preset describes."""
    gpu, fabric = row["gpu"].lower(), row["fabric"].lower()
    ranks, nodes = int(row["n_gpus"]), nodes_of(row)
    pairwise = "bridge" in fabric or "pairwise" in gpu
    table = PAIRS if pairwise else {**NVLINKED, **OTHERS}
    preset = next((table[word] for word in table if re.search(rf"(^|[^a-z0-9]){word}", gpu)), None)
    if preset is None:
        return None
    found: dict[str, Any] = {"preset": preset}
    if pairwise:
        return {**found, "nodes": max(1, -(-ranks // 2))} if nodes == 1 else None
    slot = next((f"pcie{generation}" for generation in "45" if re.search(rf"pcie ?(gen)? ?{generation}", fabric)), None)
    if slot is not None:
        found["link"] = slot
    if nodes > 1 and not preset.endswith("nvl72"):
        adapter = next((ADAPTERS[word] for word in ADAPTERS if word in fabric), None)
        found |= {"nodes": nodes, "devices_per_node": max(1, ranks // nodes)}
        if adapter is not None:
            found["nic"] = adapter
    return found


@cache
def shared_cluster(**fields: Any) -> Cluster:
    """Cluster of a mapping of plain values, read once for all rows that have it."""
    return load_cluster(fields)


def measured_row(
    row: Mapping[str, str],
    technique: str,
    setting: str,
    metric: str,
    reported: str,
    found: tuple[float, float] | None,
    calibration: bool,
    reason: str,
) -> Row:
    """What validation says of a row of a measured table; `found` is (predicted, trivial baseline), if anything is."""
    value, trivial = (None, None) if found is None else found
    split = "calibration" if calibration else "held out"
    return Row(
        FAMILY,
        technique,
        row["row_id"],
        setting,
        metric,
        float(reported),
        value,
        row["source"],
        trivial,
        split,
        reason,
    )


def predicted(row: Mapping[str, str], changes: Mapping[str, Any] | None = None) -> tuple[float, float] | None:
    """(predicted time, time on the wire alone) of a row [s]; None where no preset or rank count fits.

    Parameters
    ----------
    row : Mapping
    changes : Mapping, optional
        What to change about the cluster.
    """
    place = cluster_of(row)
    ranks, size = int(row["n_gpus"]), float(row["size_bytes"])
    kind = OPS.get(row["op"], row["op"])
    if place is None or kind not in KINDS:
        return None
    cluster = load_cluster({**place, **changes}) if changes else shared_cluster(**place)
    if ranks > cluster.size:
        return None
    pinned = "ring" if "disabled" in row["algo"].lower() else None
    cost = Communicator(cluster, ranks).collective(kind, size, pinned=pinned)
    extra = TORCH_CALL if by_torch(row) else 0.0
    wire = cost.sent_bytes / cluster.link.bandwidth
    if cluster.nic is not None and nodes_of(row) > 1:
        wire = max(wire, cost.sent_bytes / (cluster.devices_per_node * cluster.nic.bandwidth))
    return cost.time + extra, wire


def by_torch(row: Mapping[str, str]) -> bool:
    """Whether a row was timed around a call of torch.distributed, not by nccl-tests."""
    return "bench" in row["tool"]


def metric_of(row: Mapping[str, str]) -> str:
    """Name of the error a row counts in."""
    if nodes_of(row) > 1:
        return "time between nodes [us]"
    return f"time inside a node, {size_class(float(row['size_bytes']))} [us]"


def is_calibration(row: Mapping[str, str]) -> bool:
    """Whether the profiles are fitted to a row.

    Every other power of two of the nccl-tests tables inside a node, every other size of the longer
    B200 run, which is what shows the switch at sizes of gigabytes, and of the run over EFA adapters.
    """
    bits = int(float(row["size_bytes"])).bit_length()
    if doubt(row):
        return False
    if nodes_of(row) != 1:
        return "EFA" in row["fabric"] and bits % 4 == 2
    if row["tool"] == "nccl-tests":
        return (
            "aiconfigurator" in row["source"]
            and row["gpu"] in ("A100-SXM", "H100-SXM", "B200-SXM", "L40S")
            and bits % 2 == 1
        )
    return row["gpu"] == "B200-SXM" and by_torch(row) and bits % 4 == 1


def doubt(row: Mapping[str, str]) -> str:
    """Why a row is not a clean measurement of its fabric; empty when it is."""
    notes = row["notes"].lower()
    if "suspect" in notes or "broken" in notes or "no-p2p" in notes:
        return BROKEN if "p2p" in notes else "marked suspect in the table: it repeats another device's file"
    if "slow fabric" in notes:
        return UNDOCUMENTED
    if "imprecise" in notes and float(row["size_bytes"]) < MIB:
        return "printed with two decimals of bus bandwidth, too few at this size"
    if "kineto" in row["tool"]:
        return WAITING
    return ""


def rows() -> Iterator[Row]:
    """Every row of the measured table whose device has a preset."""
    table = read_measured("collectives_measured")
    if table is None:
        raise LookupError(f"collectives_measured.csv: set {MEASURED} to the folder that holds it")
    for row in table:
        found = predicted(row)
        why = doubt(row)
        yield measured_row(
            row,
            OPS.get(row["op"], row["op"]),
            f"{row['gpu']}, {row['n_gpus']} ranks, {float(row['size_bytes']):.0f} B, {row['fabric']}",
            metric_of(row) + (", doubtful rows" if why else ""),
            row["time_us"],
            None if found is None else (1e6 * found[0], 1e6 * found[1]),
            is_calibration(row),
            why if found is not None else "no preset describes this machine, or no model this operation",
        )
