"""The cluster of a row: which device, how many of them in a node, and each one's share of the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .case import UnreadableError, whole

# First match wins. A word, and the cluster it means.
CLUSTERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gb300", {"preset": "gb300-nvl72"}),
    ("gb200", {"preset": "gb200-nvl72"}),
    ("b300", {"preset": "hgx-b300"}),
    ("b200", {"preset": "hgx-b200"}),
    ("h200", {"preset": "hgx-h200"}),
    ("hbm2e", {"preset": "dgx-h100", "device": "h100-96-sxm"}),
    ("h800", {"preset": "hgx-h800"}),
    ("h100", {"preset": "dgx-h100"}),
    ("h20", {"preset": "hgx-h20"}),
    # Export part: 8 of 12 NVLinks (recalled).
    ("a800", {"preset": "dgx-a100", "link": {"preset": "nvlink3", "bandwidth": "200 GB/s"}}),
    ("a100", {"preset": "dgx-a100"}),
    ("v100", {"preset": "dgx-2"}),
    ("mi300x", {"preset": "mi300x-8"}),
    ("mi325x", {"preset": "mi300x-8"}),
    ("mi350x", {"preset": "mi350x-8"}),
    ("mi355x", {"preset": "mi350x-8"}),
)
PER_NODE = {"dgx-2": 16}
# Racks of 72 are divided into blocks of 64 where a job takes more than one (sixteen trays of four,
# the segment that NVIDIA's launch scripts ask for; recalled).
RACK, BLOCK = 72, 64
COUNTED = re.compile(r"(\d+)\s*x\s*(?:(?:HDR|NDR|EDR|XDR)\s*(\d+)|(?:[A-Za-z][A-Za-z-]*\s+)?(\d+)\s*Gb)", re.IGNORECASE)
TOTAL = re.compile(r"(\d+)\s*Gb(?:it|ps)?/?s?\b[^;]*?per (node|GPU)", re.IGNORECASE)


def adapter(text: str, per_node: int) -> float | None:
    """A device's share of its node's adapters [bit/s], from words such as "4x 100 Gb/s per node"."""
    counted = COUNTED.search(text)
    if counted:
        return int(counted[1]) * int(counted[2] or counted[3]) * 1e9 / per_node
    total = TOTAL.search(text)
    if total:
        return int(total[1]) * 1e9 / (per_node if total[2].lower() == "node" else 1)
    return None


def cluster_of(row: Mapping[str, str], network: str | None = None) -> dict[str, Any]:
    """Cluster mapping of a row.

    Parameters
    ----------
    row : Mapping
    network : str, optional
        What joins the nodes, in the words of a table, where the row does not say.

    Raises
    ------
    UnreadableError
        For a device no preset describes.
    """
    gpu = row["gpu"].lower()
    found = next((dict(cluster) for word, cluster in CLUSTERS if re.search(rf"(^|[^a-z0-9]){word}", gpu)), None)
    if found is None:
        raise UnreadableError(f"no preset describes {row['gpu'] or 'the device'}")
    if "a100" in gpu and ("40gb" in gpu or (row.get("gpu_mem_gb") or "").startswith("40")):
        found["device"] = "a100-40-sxm"
    devices = whole(row, "n_gpus")
    if "nvl72" in found["preset"]:
        per_node = RACK if devices <= RACK else BLOCK
    else:
        per_node = whole(row, "gpus_per_node", PER_NODE.get(found["preset"], 8))
    found |= {"devices_per_node": per_node, "nodes": -(-devices // per_node)}
    words = row.get("interconnect") or ""
    share = adapter(words, per_node) or adapter(network or "", per_node)
    if share:
        found["nic"] = {"preset": "hdr200", "name": "adapter share", "bandwidth": f"{share / 1e9:g} Gbit/s"}
    return found
