"""What a scenario knows of routing: how uneven, how far copies spread, how often the next expert is near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from ...simulator.expert_exchange import expected_hit
from .statistics import crossings, dropped, imbalance, pair_counts, reach
from .trace import RoutingTrace

ROUND_ROBIN, AFFINITY = "round_robin", "affinity"
SECONDS = 10.0  # that a placement is looked for where a scenario asks for one


class Spread(NamedTuple):
    """Mean over tokens and layers.

    Parameters
    ----------
    devices, nodes : float
        Distinct ones that the copies of a token lie on.
    same_device, same_node : float
        Chance that the first expert of the next layer is on the device, or in the node, of this layer's.
    """

    devices: Any
    nodes: Any
    same_device: Any
    same_node: Any


@dataclass(frozen=True, eq=False)
class Routing:
    """Where tokens go, as far as it is known; what is not known is taken as uniform.

    Parameters
    ----------
    imbalance : float, optional
        Load of the busiest rank over the mean, whatever the trace says.
    capacity : float, optional
        Room of every expert over its mean load: more is dropped, less is padded. None drops nothing.
    node_limit : int, optional
        Nodes that the experts of a token may lie in.
    groups, per_token : int
        Group-limited routing of the model; see `Transformer.expert_groups`.
    same_device, same_node : float, optional
        See `Spread`, whatever the trace says.
    trace : RoutingTrace, optional
    placement : str or ndarray
        "round_robin" (experts in the order of ranks), "affinity" (placed by the trace), or the device of every
        expert, shape (layers, experts).
    local : int, optional
        Of the ranks that divide the experts, those that share a node; None for all.
    """

    imbalance: float | None = None
    capacity: float | None = None
    node_limit: int | None = None
    groups: int = 0
    per_token: int = 0
    same_device: float | None = None
    same_node: float | None = None
    trace: RoutingTrace | None = None
    placement: str | NDArray[np.int64] = ROUND_ROBIN
    local: int | None = None
    _placed: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict, repr=False)

    @property
    def padding(self) -> float:
        """Copies that travel and are computed over those routed."""
        return 1.0 if self.capacity is None else self.capacity

    def load(self, ranks: Any) -> Any:
        """Load of the busiest rank over the mean of all that divide the experts; of arrays, each.

        Parameters
        ----------
        ranks : int or array
        """
        if self.capacity is not None:  # all experts are filled up alike
            return 1.0 if isinstance(self.placement, str) else _each(lambda n: self._fullest(n), ranks)
        if self.imbalance is not None:
            return np.where(np.greater(ranks, 1), self.imbalance, 1.0)[()]
        if self.trace is None:
            return 1.0
        return _each(lambda n: self._measured_load(n), ranks)

    def spread(self, count: int, top_k: int, ranks: Any, nodes: Any) -> Spread:
        """On how many ranks and nodes copies lie, and how near the next expert is; of arrays, each.

        Parameters
        ----------
        count, top_k : int
            Experts, and those a token visits.
        ranks, nodes : int or array
            That divide the experts, evenly.
        """
        numbers = [
            _each(lambda n, m, which=which: self._spread(count, top_k, n, m)[which], ranks, nodes) for which in range(4)
        ]
        return Spread(*numbers)

    def dropped(self) -> float | None:
        """Share of a trace's copies that find no room; None where nothing is dropped or known."""
        if self.capacity is None or self.trace is None:
            return None
        return dropped(self.trace, self.capacity)

    def device(self, ranks: int, nodes: int) -> NDArray[np.int64]:
        """Rank of every expert of the trace, shape (layers, experts).

        Raises
        ------
        InputError
            When experts were placed on another number of ranks.
        """
        assert self.trace is not None
        if not isinstance(self.placement, str):
            used = int(self.placement.max()) + 1
            if used != ranks:
                raise InputError(f"routing.placement: on {used} devices, plan.ep is {ranks} (legal: as many)")
            return self.placement
        if (ranks, nodes) not in self._placed:
            from ...solvers.expert_placement import place_experts, round_robin

            layers, count = self.trace.layers, self.trace.count
            if self.placement == AFFINITY:
                pairs = pair_counts(self.trace)
                found = place_experts(pairs, ranks, nodes, time_limit=SECONDS, prove=False).device
            else:
                found = round_robin(layers, count, ranks)
            self._placed[ranks, nodes] = found
        return self._placed[ranks, nodes]

    def _measured_load(self, ranks: int) -> float:
        assert self.trace is not None
        if ranks == 1:
            return 1.0
        # Layers follow each other, each waiting for its own busiest rank.
        return float(imbalance(self.trace, self.device(ranks, self._nodes(ranks)), ranks).mean())

    def _nodes(self, ranks: int) -> int:
        return 1 if self.local is None else -(-ranks // self.local)

    def _fullest(self, ranks: int) -> float:
        """Experts of a layer on the rank that has most, over the mean; a placement may be even in all layers alone."""
        if ranks == 1:
            return 1.0
        where = self.device(ranks, self._nodes(ranks))
        return float(np.mean([int(np.bincount(row).max()) for row in where]) * ranks / where.shape[1])

    def _spread(self, count: int, top_k: int, ranks: int, nodes: int) -> Spread:
        found = self._uniform(count, top_k, ranks, nodes)
        if self.trace is not None and ranks > 1:
            where = self.device(ranks, nodes)
            seen, moved = reach(self.trace, where, ranks, nodes), crossings(self.trace, where, nodes, ranks)
            between = max(1, self.trace.layers - 1)
            found = Spread(seen.devices, seen.nodes, 1 - moved.devices / between, 1 - moved.nodes / between)
        if self.same_device is not None and ranks > 1:
            found = found._replace(same_device=self.same_device, same_node=max(found.same_node, self.same_device))
        if self.same_node is not None and nodes > 1:
            found = found._replace(same_node=max(self.same_node, found.same_device))
        return found

    def _uniform(self, count: int, top_k: int, ranks: int, nodes: int) -> Spread:
        limits = [(1, 1)]
        if self.groups:
            limits.append((self.groups, self.per_token))
        if self.node_limit is not None:
            limits.append((nodes, min(nodes, self.node_limit)))
        devices, hosts = (min(limited_hit(parts, count, top_k, *limit) for limit in limits) for parts in (ranks, nodes))
        return Spread(devices, hosts, 1 / ranks, 1 / nodes)


def limited_hit(parts: int, experts: int, top_k: int, groups: int, limit: int) -> float:
    """Expected number of equal parts of the experts that a token reaches whose experts lie in few groups of them.

    Parameters
    ----------
    parts : int
        Ranks or nodes: whole ones in a group, or whole groups in each; else the groups are not seen.
    experts, top_k : int
    groups, limit : int
        Equal groups, and how many of them, any with the same chance, hold the token's experts; more where these
        are too small for `top_k`.
    """
    limit = max(limit, -(-top_k * groups // experts))
    if parts % groups == 0:
        return expected_hit(limit * parts // groups, limit * experts // groups, top_k)
    if groups % parts:
        return expected_hit(parts, experts, top_k)
    own, each = groups // parts, experts // groups
    missed = sum(
        comb(own, chosen) * comb(groups - own, limit - chosen) * comb((limit - chosen) * each, top_k)
        for chosen in range(min(own, limit) + 1)
    )
    return parts * (1 - missed / (comb(groups, limit) * comb(limit * each, top_k)))


UNIFORM = Routing()
"""Nothing is known: every expert takes as many tokens as any other."""


def _each(ask: Callable[..., float], *numbers: Any) -> Any:
    """Answer for one combination of whole numbers, or for arrays of them: each unlike one asked once."""
    if all(np.ndim(number) == 0 for number in numbers):
        return ask(*map(int, numbers))
    rows = np.stack(np.broadcast_arrays(*numbers), axis=-1).astype(int)
    unlike, place = np.unique(rows.reshape(-1, len(numbers)), axis=0, return_inverse=True)
    return np.array([ask(*row) for row in unlike.tolist()])[place.reshape(rows.shape[:-1])]
