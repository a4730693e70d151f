"""What ranks that hold the same weights do about them: gather them, add up their gradients, update them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...hardware import Cluster
from ..groups import Group, process_groups
from ..kernels import Kernels
from ..plan import Plan
from .cost import Cost


@dataclass(frozen=True, slots=True)
class Weights:
    """What ranks that hold the same weights do about them."""

    cluster: Cluster
    kernels: Kernels
    plan: Plan

    def _divided(self, stage: int, count: Any) -> Any:
        return count if self.plan.zero >= stage else 1

    def gathered(self, dense: Any, routed: Any = 0.0) -> Cost:
        """Weights gathered from the ranks that hold a part of them each (zero 1 and more)."""
        if not self.plan.zero:
            return Cost()
        groups, size = process_groups(self.cluster, self.plan), self.kernels.size
        found = message(groups.shard, self.kernels, "all_gather", dense * size)
        if np.any(routed):
            found += message(groups.expert_dp, self.kernels, "all_gather", routed * size)
        return found

    def reduced(self, dense: Any, routed: Any = 0.0) -> Cost:
        """Gradients added up: scattered over a sharding group, then over the groups that hold equal shards."""
        groups, size = process_groups(self.cluster, self.plan), self.kernels.software.message_bytes
        kind = "reduce_scatter" if self.plan.zero else "all_reduce"
        found = message(groups.shard, self.kernels, kind, dense * size)
        if self.plan.shard_group is not None:
            part = dense * size / self._divided(1, groups.shard.size)
            found += message(groups.replicas, self.kernels, "all_reduce", part)
        if np.any(routed):
            found += message(groups.expert_dp, self.kernels, kind, routed * size)
        return found

    def updated(self, dense: Any, routed: Any = 0.0) -> Cost:
        """Clipping and updating a rank's share of the parameters, on the device or on the host."""
        groups, software = process_groups(self.cluster, self.plan), self.kernels.software
        count = dense / self._divided(1, groups.shard.size) + routed / self._divided(1, groups.expert_dp.size)
        traffic = count * software.update_bytes
        time = traffic / self.kernels.bandwidth
        if self.plan.offload == "none":
            return Cost(time=time, compute=time, memory_bytes=traffic, sm_time=time, launches=0.0)
        moved = count * (software.gradient_bytes + self.kernels.size)  # gradients down, weights up
        away = moved / software.host_link + count * software.update_bytes / software.host_memory
        return Cost(time=away, memory_bytes=moved, sent={"host": moved})


def message(group: Group, kernels: Kernels, kind: str, size: Any) -> Cost:
    """A collective as a cost: its bytes by the definition of its kind, its time by the library's choice.

    Parameters
    ----------
    group : Group
    kernels : Kernels
    kind : str
    size : float or array
        Bytes, by the convention of the kind [B].
    """
    time = group.times(kind, size)
    sent = size * (group.size - 1) / group.size * (2 if kind == "all_reduce" else 1)
    crossing = group.crossing(kind, sent)
    share = min(1.0, group.cluster.link.channels / kernels.device.compute_units)
    return Cost(
        time=time,
        communication=time,
        memory_bytes=2 * sent,
        link_bytes=sent - crossing,
        nic_bytes=crossing,
        sm_time=time * share,
        sent={kind: sent},
    )
