"""Dispatch and combine times against published runs of DeepEP kernels (not shipped)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..simulator.expert_exchange import BF16_BYTES, FP8_BYTES, KERNELS, Exchange, ExchangeKernel, exchange
from .claims import MEASURED, Row, read_measured
from .collectives import measured_row, shared_cluster

CLUSTERS = {
    "sm90": "dgx-h100",  # some rows name the generation only, or H800 and H100 in one breath
    "sm100": "hgx-b200",
    "h800": "hgx-h800",
    "h200": "hgx-h200",
    "h100": "dgx-h100",
    "h20": "hgx-h20",
    "b300": "hgx-b300",
    "b200": "hgx-b200",
}
EXPERTS = 256  # where the table leaves it out: DeepSeek-V3's, whose shape the rows have
NODE_LIMIT = 4  # "top-4 groups" of the readme's setting
UNITS = 24  # the readme's setting of normal kernels


def style_of(row: Mapping[str, str]) -> str:
    """Kind of kernel of a row."""
    if row["kernel"].startswith("low-latency"):
        return "low latency"
    return "elastic" if "V2" in row["kernel"] else "normal"


def is_calibration(row: Mapping[str, str]) -> bool:
    """Whether `fit_expert_exchange` sees a row: 256 experts on one H100 node, and two-node low latency."""
    if row["kernel"].startswith("low-latency (V1)"):
        return row["n_nodes"] in ("2", "2.0")
    return row["gpu"] == "H100-SXM" and float(row["n_experts"] or 0) == EXPERTS


def predicted(row: Mapping[str, str], kernel: ExchangeKernel | None = None) -> Exchange | None:
    """Prediction for a row of the table, by `KERNELS` or a kernel given; None for an unknown device."""
    gpu = row["gpu"].lower()
    preset = next((CLUSTERS[word] for word in CLUSTERS if word in gpu), None)
    needed = ("ep_size", "tokens_per_rank", "hidden", "topk")
    if preset is None or not all(row[key] for key in needed):
        return None
    ranks = int(float(row["ep_size"]))
    nodes = int(float(row["n_nodes"] or -(-ranks // 8)))
    cluster = shared_cluster(preset=preset, nodes=nodes, devices_per_node=max(1, ranks // nodes))
    dispatch = row["phase"] == "dispatch"
    return exchange(
        cluster,
        ranks,
        kernel or KERNELS[style_of(row), row["phase"]],
        tokens=float(row["tokens_per_rank"]),
        hidden=int(float(row["hidden"])),
        top_k=int(float(row["topk"])),
        experts=int(float(row["n_experts"] or EXPERTS)),
        element_bytes=FP8_BYTES if dispatch else BF16_BYTES,
        units=int(float(row["sms"] or UNITS)),
        node_limit=NODE_LIMIT if "group" in row["notes"] else None,
    )


def rows() -> Iterator[Row]:
    """Every row of the table: its time, or its logical bandwidth where no time is printed."""
    table = read_measured("moe_all2all_deepep")
    if table is None:
        raise LookupError(f"moe_all2all_deepep.csv: set {MEASURED} to the folder that holds it")
    # The trivial baseline is the wire of a one-node link at the nominal rate.
    bandwidth = shared_cluster(preset="dgx-h100").link.bandwidth
    for row in table:
        cost = predicted(row)
        if not (row["latency_us"] or row["bandwidth_GBps"]):
            continue
        timed = bool(row["latency_us"])
        metric, reported = ("time [us]", row["latency_us"]) if timed else ("bandwidth [GB/s]", row["bandwidth_GBps"])
        found = None
        if cost is not None:
            moved = cost.logical_nic_bytes if cost.nic_bytes else cost.logical_bytes
            found = (
                (1e6 * cost.time, 1e6 * cost.logical_bytes / bandwidth)
                if timed
                else (1e-9 * moved / cost.time, 1e-9 * bandwidth)
            )
        where = "between nodes" if cost is not None and cost.nic_bytes else "inside a node"
        yield measured_row(
            row,
            f"expert {row['phase']}",
            f"{row['gpu']}, {row['kernel']}, {row['ep_size']} ranks, {row['tokens_per_rank']} tokens of "
            f"{row['hidden']}, top {row['topk']}",
            f"{style_of(row)} {where}, {metric}",
            reported,
            found,
            is_calibration(row),
            "" if cost is not None else "no preset describes this machine, or the row leaves out its shape",
        )
