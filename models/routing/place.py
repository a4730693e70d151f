"""Experts of a trace placed on the devices of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...hardware import Cluster, load_cluster
from ...hardware.errors import InputError
from ...simulator.costs import BULK, FabricCosts
from ...solvers.expert_placement import place_experts, replicate, round_robin
from .report import PlacementReport
from .statistics import Slots, affinity_by_layer, crossings, imbalance, loads, pair_counts
from .trace import RoutingTrace
from .trace_file import load_trace


def place(
    trace: RoutingTrace | str | Path,
    cluster: Cluster | str | Path | Mapping[str, Any] = "dgx-h100",
    *,
    devices: int | None = None,
    balance: str = "hard",
    replicas: int | None = None,
    slots: Slots = "first",
    time_limit: float = 10.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PlacementReport:
    """Place the experts of a trace so that tokens seldom change device, and seldomer node.

    A move takes as long as a token takes on its way, so its weight is the inverse of the rate: of a rank's link in
    an exchange among all inside a node, and of its adapter between nodes. Latencies are shared by all tokens of an
    exchange and left out, and so is the size of a token, which both have in common.

    Parameters
    ----------
    trace : RoutingTrace, str or Path
        Or its file, or the name of a shipped one.
    cluster : Cluster, str, Path or mapping
        As in a scenario.
    devices : int, optional
        The first so many: some of a node, or whole nodes. Default all.
    balance : str
        "hard" (as many experts of a layer on every device) or "penalised" (in all layers together, with loads spread).
    replicas : int, optional
        Places for experts on each device and layer; more than the experts need are given to copies of busy ones. They
        are reported beside the placement: a scenario takes their `imbalance`.
    slots : str
        "first" (moves from the first expert of a token to the first of the next layer) or "all".
    time_limit : float
        For the solver [s].
    seed : int
    progress : callable, optional
        Called as ``progress(done, of)``.

    Returns
    -------
    PlacementReport

    Raises
    ------
    InputError
        A trace of one layer, devices that do not divide the experts, or what is outside its legal range.
    """
    where = "trace" if isinstance(trace, RoutingTrace) else str(trace)
    seen = trace if isinstance(trace, RoutingTrace) else load_trace(trace)
    fabric = load_cluster(cluster)
    if seen.layers < 2:
        raise InputError(f"{where}: 1 layer with experts (legal: 2 or more, for tokens to move between)")
    count, nodes = _devices(fabric, devices, seen.count)
    if replicas is not None and not (type(replicas) is int and -(-seen.count // count) <= replicas <= seen.count):
        raise InputError(
            f"replicas: {replicas!r} places on each of {count} devices for {seen.count} experts "
            f"(legal: {seen.count // count} to {seen.count})"
        )
    pairs, load = pair_counts(seen, slots), loads(seen)
    ratio = _node_cost(fabric, count, nodes)
    placement = place_experts(
        pairs,
        count,
        nodes,
        load=None if balance == "hard" else load,
        balance=balance,
        node_cost=ratio,
        time_limit=time_limit,
        seed=seed,
        progress=progress,
    )
    start = round_robin(seen.layers, seen.count, count)
    moves = [crossings(seen, device, nodes, count, slots) for device in (start, placement.device)]
    busy = [imbalance(seen, device, count) for device in (start, placement.device)]
    return PlacementReport(
        seen,
        fabric.name,
        balance,
        slots,
        placement,
        start,
        ratio,
        moves[0],
        moves[1],
        busy[0],
        busy[1],
        affinity_by_layer(seen),
        pairs / seen.tokens,
        None if replicas is None else replicate(load, count, replicas, pairs=pairs),
    )


def _devices(cluster: Cluster, devices: int | None, experts: int) -> tuple[int, int]:
    """How many devices, and on how many nodes."""
    each, size = cluster.devices_per_node, cluster.size
    fits = [n for n in range(1, size + 1) if experts % n == 0 and (n <= each or n % each == 0)]
    count = size if devices is None else devices
    if isinstance(count, bool) or count not in fits:
        raise InputError(
            f"devices: {count!r} of {cluster.name} with {cluster.nodes} x {each} for {experts} experts "
            f"(legal: {', '.join(map(str, fits))})"
        )
    return int(count), -(-int(count) // each)


def _node_cost(cluster: Cluster, devices: int, nodes: int) -> float:
    """Time of a token between nodes over that inside one; 1 where there is one node, or its links are slower."""
    if nodes == 1:
        return 1.0
    costs = FabricCosts(cluster, devices)
    inside, across = costs.exchanging(BULK)
    if across is None:
        raise InputError(f"{cluster.name}: nic: missing (legal: an adapter, to join {nodes} nodes)")
    return max(1.0, float(costs.rate(inside, everyone=True) / costs.adapter_rate(across, everyone=True)))
