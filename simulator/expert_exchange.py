"""Dispatch and combine of a mixture of experts: how long tokens travel to their experts and back.

Two kinds of kernel, as expert-parallel libraries offer them (the models are ours, the mechanism is
the one DeepEP documents):

* *normal*: a token goes once to every rank that holds one of its experts, and between nodes once to
  every node, from where the links inside the node spread it. Some compute units copy; the slowest
  of copying, link and adapter sets the pace, and every token costs them a little besides its bytes.
* *low latency*: a copy of the token goes to each of its experts, straight from rank to rank, and only
  a fixed cost and the busier of link and adapter count.

Routing is taken as uniform unless the caller knows how many ranks and nodes a token reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..hardware import Cluster

FP8_BYTES = 1 + 4 / 128  # an element, and a 4-byte scale for each 128 of them
BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class ExchangeKernel:
    """Costs of one direction of one kind of kernel.

    Parameters
    ----------
    base : float
        Fixed time of a call [s].
    across : float
        More of it when ranks of other nodes take part [s].
    fill : float
        Time per byte of one token before the pipeline runs [s/B].
    copy_rate : float
        Bytes a compute unit copies per second, 0 where copying never binds [B/s].
    per_token : float
        Time of one compute unit per token besides its bytes [s].
    link_efficiency : float
        Share of the link's bandwidth reached.
    deduplicated : bool
        Whether a token goes once to a rank however many of its experts are there.
    """

    base: float
    across: float
    fill: float
    copy_rate: float
    per_token: float
    link_efficiency: float
    deduplicated: bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """One dispatch or combine of one rank.

    Parameters
    ----------
    time : float
        Seconds alone on the fabric.
    link_bytes, nic_bytes : float
        Bytes the rank sends inside and between nodes.
    logical_bytes : float
        Bytes of all copies of its tokens, own rank included.
    logical_nic_bytes : float
        Bytes of the copies that go by the adapters' path, own node included.
    bound : str
        "copy", "link", "adapter" or "latency": what the time waits for.
    """

    time: float
    link_bytes: float
    nic_bytes: float
    logical_bytes: float
    logical_nic_bytes: float
    bound: str


def expected_hit(parts: int, experts: int, top_k: int) -> float:
    """Expected number of equal parts of the experts that `top_k` distinct random experts fall in.

    Parameters
    ----------
    parts : int
        Ranks or nodes, dividing `experts`.
    experts, top_k : int

    Returns
    -------
    float
        ``parts (1 - C(experts - experts / parts, top_k) / C(experts, top_k))``.
    """
    outside, missed = experts - experts / parts, 1.0
    for i in range(top_k):
        missed *= max(outside - i, 0.0) / (experts - i)
    return parts * (1 - missed)


def exchange(
    cluster: Cluster,
    ranks: int,
    kernel: ExchangeKernel,
    *,
    tokens: float,
    hidden: int,
    top_k: int,
    experts: int,
    element_bytes: float,
    units: int = 24,
    node_limit: int | None = None,
    local: int | None = None,
    reach: tuple[float, float] | None = None,
) -> Exchange:
    """Cost of sending every rank's tokens to their experts, or of the results' way back.

    Parameters
    ----------
    cluster : Cluster
    ranks : int
        Expert-parallel group, filled node by node.
    kernel : ExchangeKernel
        One of `KERNELS`.
    tokens : float
        Per rank.
    hidden, top_k, experts : int
    element_bytes : float
        Bytes per element on the wire (`FP8_BYTES`, `BF16_BYTES`).
    units : int
        Compute units that copy.
    node_limit : int, optional
        Most nodes a token may reach (group-limited routing).
    local : int, optional
        Ranks of the group in a node; default as many as fit.
    reach : tuple of float, optional
        Mean number of (ranks, nodes) that a token reaches; default that of uniform routing.

    Returns
    -------
    Exchange
    """
    local = min(ranks, cluster.devices_per_node) if local is None else local
    nodes = -(-ranks // local)
    token = hidden * element_bytes
    if kernel.deduplicated:
        if reach is None:
            allowed = min(nodes, node_limit or nodes)
            reachable = max(experts * allowed // nodes, top_k)
            reach = expected_hit(allowed * local, reachable, top_k), expected_hit(allowed, reachable, top_k)
        copies, per_node = reach
        # The token crosses once per node; there 1 / local of its targets is where it lands.
        nic = tokens * token * per_node * (nodes - 1) / nodes
        link = tokens * token * copies * (local - 1) / local
        logical_nic = tokens * token * per_node
    else:
        copies = float(top_k)
        nic = tokens * token * copies * (ranks - local) / ranks
        link = tokens * token * copies * (local - 1) / ranks
        logical_nic = tokens * token * copies
    logical = tokens * token * copies
    spent = {"link": link / (cluster.link.bandwidth * kernel.link_efficiency)}
    base = kernel.base + kernel.fill * token
    if nodes > 1 and cluster.nic is not None:
        nic_profile = cluster.nic.profile.exchange_bulk
        spent["adapter"] = nic / (cluster.nic.bandwidth * nic_profile.efficiency)
        base += kernel.across
    if kernel.copy_rate:
        spent["copy"] = logical / (units * kernel.copy_rate)
    bound = max(spent, key=lambda key: spent[key])
    moving = spent[bound] + tokens * kernel.per_token / units
    return Exchange(base + moving, link, nic, logical, logical_nic, bound if moving > base else "latency")


# Fitted by ``python -m commlens.validation.fit_expert_exchange`` to published times of DeepEP kernels on one
# node of H100 (aiconfigurator tables, SGLang 0.5.12; rows with 256 experts) and, for `across`, to the
# two-node rows of DeepEP's readme on H800. `across` of the normal kernels is assumed as theirs.
KERNELS: Mapping[tuple[str, str], ExchangeKernel] = {
    ("normal", "dispatch"): ExchangeKernel(25.3e-6, 20e-6, 0.270e-9, 24.5e9, 0.652e-6, 0.835, True),
    ("normal", "combine"): ExchangeKernel(24.9e-6, 20e-6, 1.66e-9, 19.7e9, 0.177e-6, 0.654, True),
    ("low latency", "dispatch"): ExchangeKernel(11.6e-6, 20.9e-6, 0.192e-9, 0.0, 0.0, 0.620, False),
    ("low latency", "combine"): ExchangeKernel(11.5e-6, 18.3e-6, 0.141e-9, 0.0, 0.0, 0.546, False),
    # DeepEP's second version moves data with few compute units (6 to 12, by its readme): copying never binds.
    ("elastic", "dispatch"): ExchangeKernel(25.3e-6, 20e-6, 0.270e-9, 0.0, 0.0, 0.835, True),
    ("elastic", "combine"): ExchangeKernel(24.9e-6, 20e-6, 1.66e-9, 0.0, 0.0, 0.654, True),
}
"""By kind of kernel and direction."""
