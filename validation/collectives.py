"""Collective times against published runs inside a node (not shipped; see COMMLENS_MEASURED)."""

from __future__ import annotations

from collections.abc import Iterator

from ..hardware import load_cluster
from ..simulator.communicator import Communicator
from .claims import MEASURED, Row, read_measured

FAMILY = "network"
CLUSTERS = {"H100-SXM": "dgx-h100", "A100-SXM": "dgx-a100"}
KINDS = ("all_reduce", "reduce_scatter", "all_gather")


def rows() -> Iterator[Row]:
    """Every nccl-tests row of a shipped node whose group has 2 to 8 ranks."""
    table = read_measured("collectives_measured")
    if table is None:
        raise LookupError(f"collectives_measured.csv: set {MEASURED} to the folder that holds it")
    for row in table:
        if row["gpu"] not in CLUSTERS or row["op"] not in KINDS or row["tool"] != "nccl-tests" or row["n_nodes"] != "1":
            continue
        ranks, size = int(row["n_gpus"]), float(row["size_bytes"])
        cluster = load_cluster(CLUSTERS[row["gpu"]])
        cost = getattr(Communicator(cluster, ranks), row["op"])(size)
        # The trivial baseline is the wire: full link bandwidth, no latency.
        wire = cost.sent_bytes / cluster.link.bandwidth
        size_class = "1 MiB and more" if size >= 2**20 else "below 1 MiB"
        yield Row(
            FAMILY,
            f"{row['op']} {CLUSTERS[row['gpu']]}",
            row["row_id"],
            f"{ranks} ranks, {size:.0f} B",
            f"time, {size_class} [us]",
            float(row["time_us"]),
            1e6 * cost.time,
            row["source"],
            1e6 * wire,
            "calibration" if size == 16384 else "held out",
        )
