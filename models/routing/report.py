"""What placing the experts of a trace saves: moves and load, as a summary, a file and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.units import format_time
from ...solvers.expert_placement import Placement, Replicas
from .placement_file import PlacementFile, save_placement
from .statistics import Affinity, Crossings
from .trace import RoutingTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STATUS = {
    "optimal": "proved the best",
    "heuristic": "not proved the best",
    "time limit": "the best when the time limit was reached",
}
_CROWDED = 1.2  # rise of the busiest device's load that a summary speaks of
_LISTED = 16  # boundaries whose affinity a summary lists one by one


@dataclass(frozen=True, eq=False)
class PlacementReport:
    """A placement of experts, beside experts in rank order. Moves are of a token through all layers.

    Attributes
    ----------
    trace : RoutingTrace
    cluster : str
    balance, slots : str
        As of `place`.
    placement : Placement
    rank_order : ndarray of int, shape (layers, experts)
        The first experts on the first device, and so on.
    node_cost : float
        Weight of a move between nodes, where one inside a node has weight 1.
    before, after : Crossings
        Moves in rank order, and as placed.
    load_before, load_after : ndarray, shape (layers,)
        Tokens of the busiest device over the mean.
    affinity : Affinity
        At each boundary between layers.
    pairs : ndarray, shape (layers - 1, experts, experts)
        Share of tokens that go from an expert to one of the next layer.
    replicas : Replicas, optional
        Experts with copies; see `place`.
    """

    trace: RoutingTrace
    cluster: str
    balance: str
    slots: str
    placement: Placement
    rank_order: Integers
    node_cost: float
    before: Crossings
    after: Crossings
    load_before: Floats
    load_after: Floats
    affinity: Affinity
    pairs: Floats
    replicas: Replicas | None = None

    @property
    def saved(self) -> float:
        """Share of the weighted moves in rank order that the placement saves."""
        before = self.weighted(self.before)
        return 1 - self.weighted(self.after) / before if before else 0.0

    def weighted(self, moves: Crossings) -> float:
        """Moves with their weights: in units of a move inside a node."""
        return moves.devices + (self.node_cost - 1) * moves.nodes

    def traffic(self, device: Integers) -> Floats:
        """Moves of a token from each device to each, shape (devices, devices); the diagonal stays where it is.

        Parameters
        ----------
        device : ndarray of int, shape (layers, experts)
            `rank_order` or `placement.device`.
        """
        held = np.eye(self.placement.devices)[device]
        return np.asarray(np.einsum("lid,lij,lje->de", held[:-1], self.pairs, held[1:], optimize=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain JSON types."""
        placement = self.placement
        return {
            **self.about(),
            "load_before": self.load_before.tolist(),
            "load_after": self.load_after.tolist(),
            "affinity": {name: values.tolist() for name, values in self.affinity._asdict().items()},
            "device": placement.device.tolist(),
            "replicas": None if self.replicas is None else _copies(self.replicas, self.trace),
        }

    def about(self) -> dict[str, Any]:
        """What a file of the placement says of it."""
        trace, placement = self.trace, self.placement
        return {
            "trace": trace.source,
            "tokens": trace.tokens,
            "layers": trace.layers,
            "experts": trace.count,
            "experts_per_token": trace.k,
            "cluster": self.cluster,
            "devices": placement.devices,
            "nodes": placement.nodes,
            "balance": self.balance,
            "slots": self.slots,
            "node_cost": self.node_cost,
            "moves_before": self.before.devices,
            "moves_after": self.after.devices,
            "node_moves_before": self.before.nodes,
            "node_moves_after": self.after.nodes,
            "cost_before": self.weighted(self.before),
            "cost_after": self.weighted(self.after),
            "saved": self.saved,
            "bound": placement.bound,
            "gap": placement.gap,
            "deviation": placement.deviation,
            "status": placement.status,
            "solver_s": placement.seconds,
            "imbalance_before": float(self.load_before.mean()),
            "imbalance_after": float(self.load_after.mean()),
        }

    def summary(self) -> str:
        """A few lines for people."""
        trace, placement, before, after = self.trace, self.placement, self.before, self.after
        boundaries = trace.layers - 1
        shape = f"{trace.tokens} tokens, {trace.layers} layers, {trace.k} of {trace.count} experts"
        where = f"{placement.devices} of {self.cluster}"
        if placement.nodes > 1:
            where += f", {placement.nodes} nodes; a move between nodes weighs {self.node_cost:.3g} inside one"
        rows = [
            ("trace", shape if len(trace.source) > 60 else f"{shape}: {trace.source}"),
            ("devices", where),
            ("moves", f"of {boundaries}: {before.devices:.3f} a token in rank order, {after.devices:.3f} placed"),
        ]
        if placement.nodes > 1:
            rows.append(("between nodes", f"{before.nodes:.3f} a token in rank order, {after.nodes:.3f} placed"))
        found = f"{_STATUS[placement.status]}, found in {format_time(placement.seconds)}"
        least = f"; none has fewer than {placement.bound:.3f} (gap {placement.gap:.1%})" if placement.bound else ""
        rows += [
            ("saved", f"{self.saved:.1%}"),
            ("weighted", f"{self.weighted(after):.3f} moves, {found}{least}"),
            ("busiest device", f"{_load(self.load_before)} in rank order, {_load(self.load_after)} placed"),
            ("affinity", _affinity(self.affinity)),
        ]
        if self.replicas is not None:
            copies = self.replicas
            rows.append(
                (
                    "replicas",
                    f"{copies.expert.shape[2]} places a device: busiest {_load(copies.imbalance)}, at least "
                    f"{copies.bound.mean():.3f}; {copies.crossings:.3f} moves a token",
                )
            )
        counts = [np.bincount(row, minlength=placement.devices) for row in placement.device]
        if np.ptp(counts):
            most = f"up to {np.max(counts)} experts of a layer on a device, not {trace.count // placement.devices}"
            rows.append(("note", f"{most}; all layers together are even"))
        if self.load_after.mean() > _CROWDED * self.load_before.mean():
            rows.append(("note", "busy experts share devices (balance penalised spreads them, replicas copy them)"))
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)

    def save(self, path: str | Path) -> None:
        """Write the placement, as `workload.routing.placement` of a scenario takes it.

        Raises
        ------
        InputError
            When the file cannot be written.
        """
        placement, about = self.placement, self.about()
        if self.replicas is not None:
            about["replicas"] = _copies(self.replicas, self.trace)
        save_placement(PlacementFile(placement.device, placement.devices, placement.nodes, about), path)

    def plot(self, figure: Figure | None = None) -> Figure:
        """Traffic between devices, in rank order and as placed."""
        from .drawing import draw_traffic

        return draw_traffic(self, figure)


def _load(busiest: Floats) -> str:
    return f"{busiest.mean():.3f} x the mean (worst layer {busiest.max():.3f})"


def _affinity(found: Affinity) -> str:
    """Share of tokens that go on to the partner of their expert, beyond chance, by boundary."""
    share = found.markov
    if len(share) <= _LISTED:
        each = " ".join(f"{value:.2f}" for value in share)
    else:
        low, high = int(share.argmin()), int(share.argmax())
        each = f"{share[low]:.2f} behind layer {low} to {share[high]:.2f} behind layer {high}"
    return f"{share.mean():.2f} of tokens follow a fixed partner; by boundary {each}"


def _copies(replicas: Replicas, trace: RoutingTrace) -> dict[str, Any]:
    return {
        "places": int(replicas.expert.shape[2]),
        "imbalance": float(replicas.imbalance.mean()),
        "imbalance_by_layer": replicas.imbalance.tolist(),
        "bound_by_layer": replicas.bound.tolist(),
        "moves": replicas.crossings,
        "copies": int(replicas.copies.sum()) - trace.layers * trace.count,
        "expert": replicas.expert.tolist(),
    }
