"""Process groups of a plan, and what their collectives cost: of one plan, or of many at once.

Ranks are numbered along the axes of the plan's `placement`, innermost first, node by node. The group
of an axis are the ranks that differ in it alone: `size` ranks that stand `stride` apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..simulator.communicator import Collective, Communicator

if TYPE_CHECKING:
    from ..hardware import Cluster


class Group:
    """Collectives among groups of `size` ranks, `stride` apart.

    Parameters
    ----------
    cluster : Cluster
    size, stride : int or array of int
        Of one group, or of one per plan.
    """

    def __init__(self, cluster: Cluster, size: Any, stride: Any = 1):
        self.cluster = cluster
        self.size, self.stride = size, stride
        self.many = np.ndim(size) > 0 or np.ndim(stride) > 0
        self._known: dict[tuple[str, tuple[int, ...], bytes], Collective] = {}

    def collective(self, kind: str, size: Any) -> Collective:
        """What the library does with `size` bytes; fields are arrays where plans, or sizes, are."""
        if not self.many and np.ndim(size) == 0:
            return communicator(self.cluster, int(self.size), int(self.stride)).collective(kind, float(size))
        key = (kind, np.shape(size), np.asarray(size, dtype=float).tobytes())  # layers ask the same over and over
        if key not in self._known:
            self._known[key] = self._collectives(kind, size)
        return self._known[key]

    def _collectives(self, kind: str, size: Any) -> Collective:
        return self.each(lambda among, amount: among.collective(kind, amount), size)

    def each(self, price: Callable[..., Collective], *numbers: Any) -> Collective:
        """What a price comes to among the ranks of a group, or of many: each unlike one asked once.

        Parameters
        ----------
        price : callable
            ``price(communicator, *numbers)``.
        *numbers : float or array
        """
        if not self.many and all(np.ndim(number) == 0 for number in numbers):
            return price(communicator(self.cluster, int(self.size), int(self.stride)), *map(float, numbers))
        asked = np.stack(np.broadcast_arrays(self.size, self.stride, *numbers), axis=-1).astype(float)
        unique, place = np.unique(asked.reshape(-1, asked.shape[-1]), axis=0, return_inverse=True)
        found: list[Collective] = []
        among = (0, 0)
        for n, stride, *row in unique.tolist():  # in order, so a group is looked up once for all its sizes
            if among != (n, stride):
                among, group = (n, stride), communicator(self.cluster, int(n), int(stride))
            found.append(price(group, *row))
        place = place.reshape(asked.shape[:-1])
        names = ("time", "sent_bytes", "memory_bytes", "read_bytes", "channels")
        fields: dict[str, Any] = {name: np.array([getattr(cost, name) for cost in found])[place] for name in names}
        if any(cost.crossing is not None for cost in found):
            fields["crossing"] = np.array([cost.crossing or 0.0 for cost in found])[place]
        return Collective(found[0].kind, "many", "many", **fields)

    def times(self, kind: str, size: Any) -> Any:
        """Seconds alone of the library's choice [s]."""
        if not self.many and np.ndim(size) == 0:
            return self.collective(kind, size).time
        members, strides, sizes = np.broadcast_arrays(self.size, self.stride, np.asarray(size, dtype=float))
        found = np.zeros(sizes.shape)
        pairs, place = np.unique(np.stack([members.ravel(), strides.ravel()], axis=-1), axis=0, return_inverse=True)
        order = np.argsort(place.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(place.ravel(), minlength=len(pairs)))
        flat, begin = found.ravel(), 0
        for (n, s), end in zip(pairs, ends, strict=True):
            mine = order[begin:end]
            flat[mine] = communicator(self.cluster, int(n), int(s)).times(kind, sizes.ravel()[mine])
            begin = end
        return flat.reshape(sizes.shape)

    def crossing(self, kind: str, sent: Any) -> Any:
        """Of the bytes a rank sends, those that leave through its network adapter [B]."""
        local = self.local()
        if kind == "all_to_all":
            return sent * (self.size - local) / np.maximum(np.subtract(self.size, 1), 1)
        # A ring leaves each node once, its rails spread over the adapters of the node's members.
        return np.where(np.greater(self.size, local), sent / local, 0.0)[()]

    def crossed(self, cost: Collective) -> Any:
        """The same of a collective: what it says itself, or its kind's usual part [B]."""
        return self.crossing(cost.kind, cost.sent_bytes) if cost.crossing is None else cost.crossing

    def nodes(self) -> Any:
        """Nodes that its members are in."""
        return -np.floor_divide(-self.size, self.local())

    def local(self) -> Any:
        """Members that share a node."""
        return np.minimum(self.size, -np.floor_divide(-self.cluster.devices_per_node, self.stride))


@lru_cache(maxsize=65_536)
def communicator(cluster: Cluster, size: int, stride: int) -> Communicator:
    """The one communicator of each size and stride of a cluster."""
    return Communicator(cluster, size, stride)


@dataclass(frozen=True, slots=True)
class Groups:
    """Process groups of a plan, or of many.

    Parameters
    ----------
    tp, cp, ep : Group
        Tensor, context and expert parallel.
    dp : Group
        Ranks that hold the same dense weights: data and context parallel.
    expert_dp : Group
        Ranks that hold the same experts.
    shard, replicas : Group
        The part of `dp` over which ZeRO divides, and the groups that hold equal shards.
    pipeline_stride : int or array
        Distance between neighbouring stages.
    """

    tp: Group
    cp: Group
    ep: Group
    dp: Group
    expert_dp: Group
    shard: Group
    replicas: Group
    pipeline_stride: Any

    def __getitem__(self, axis: str) -> Group:
        """Group of an axis by name."""
        found: Group = getattr(self, axis)
        return found


def process_groups(cluster: Cluster, plan: Any) -> Groups:
    """Groups of a plan.

    Parameters
    ----------
    cluster : Cluster
    plan : Plan
        Its degrees may be arrays.
    """
    degrees = {"tp": plan.tp, "cp": plan.cp, "dp": plan.dp, "pp": plan.pp}
    stride: dict[str, Any] = {}
    inner: Any = 1
    for axis in plan.placement.split("-"):
        stride[axis] = inner
        inner = inner * degrees[axis]
    replicas_of = plan.dp * plan.cp
    # Context- and data-parallel ranks hold the same weights: one group, at the distance of its inner axis.
    same = np.where(np.equal(plan.cp, 1), stride["dp"], np.minimum(stride["cp"], stride["dp"]))[()]
    shard = replicas_of if plan.shard_group is None else np.minimum(plan.shard_group, replicas_of)
    expert_stride = np.where(np.equal(plan.etp, 1), np.minimum(stride["tp"], same), same)[()]
    expert_copies = plan.tp * replicas_of // (plan.ep * plan.etp)
    return Groups(
        Group(cluster, plan.tp, stride["tp"]),
        Group(cluster, plan.cp, stride["cp"]),
        Group(cluster, plan.ep, expert_stride),
        Group(cluster, replicas_of, same),
        Group(cluster, expert_copies, expert_stride * plan.ep),
        Group(cluster, shard, same),
        Group(cluster, replicas_of // shard, same * shard),
        stride["pp"],
    )
