"""The closed form of an arrangement: when each piece of work ends, without a program to play.

A `Clock` stands in for the `Builder` a technique speaks to. Its handles are instants instead of tasks,
so one pass through the technique times a layer, or, with arrays for costs, the layers of a million
plans. Streams run in order; a collective takes its channels' share of the compute units from the
kernels beside it, as it does in the simulator.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..hardware import Cluster
from ..simulator import Program
from ..simulator.communicator import Collective
from .attention import beside, block
from .blocks import Attend
from .build import Builder, Handle
from .dispatch import all_to_all
from .groups import Group, Groups
from .kernels import Kernel, Kernels
from .training.cost import Cost

# What attention of single plans costs, by the kernels it was worked out for.
_KNOWN: WeakKeyDictionary[Kernels, dict[Any, Cost]] = WeakKeyDictionary()


class Clock(Builder):
    """Times an arrangement on one rank of each plan.

    Parameters
    ----------
    cluster : Cluster
    kernels : Kernels
    groups : Groups
        Process groups; of many plans where their degrees are arrays.
    """

    def __init__(self, cluster: Cluster, kernels: Kernels, groups: Groups):
        self.program = Program("closed form")
        self.cluster, self.kernels, self.device = cluster, kernels, cluster.device
        self.tp, self.groups, self.tensor = groups.tp.size, groups, groups.tp
        self.ranks = range(1)
        self.start: Handle = ()
        self.scheme = beside
        self.reach = all_to_all
        self._last: Handle = ()
        self._free: dict[str, Any] = {}
        self._beside: list[tuple[Any, Any, Any]] = []  # (start, end, share) of collectives not over yet
        self.compute_time: Any = 0.0
        self.communication_time: Any = 0.0
        self.sm_time: Any = 0.0
        self.memory_bytes: Any = 0.0
        self.link_bytes: Any = 0.0
        self.nic_bytes: Any = 0.0
        self.sent: dict[str, Any] = {}
        self.launches: Any = 0

    def end(self) -> Any:
        """When everything emitted so far has ended [s]."""
        latest: Any = 0.0
        for instant in self._free.values():
            latest = np.maximum(latest, instant)
        return latest

    def cost(self) -> Cost:
        """What everything emitted so far costs."""
        return Cost(
            self.end(),
            self.compute_time,
            self.communication_time,
            self.memory_bytes,
            self.link_bytes,
            self.nic_bytes,
            self.sm_time,
            self.launches,
            self.sent,
        )

    def run(self, kernel: Kernel, after: Handle) -> Handle:
        """Time of a kernel, slowed while a collective holds part of the compute units."""
        free = self._free.get("compute", 0.0)
        self._beside = [known for known in self._beside if np.any(np.greater(known[1], free))]
        begin = np.maximum(free, _instant(after)) + kernel.overhead
        end = begin + kernel.time
        for start, stop, share in self._beside:
            # What it would have done in the time beside the collective is left for after it.
            since = np.maximum(start, begin)
            both = np.clip(np.minimum(stop - since, (end - since) / (1 - share)), 0.0, None)
            end = end + both * share
        self.compute_time = self.compute_time + (end - begin) + kernel.overhead
        self.sm_time = self.sm_time + kernel.time
        self.memory_bytes = self.memory_bytes + kernel.memory_bytes
        self.launches += 1
        self._free["compute"] = end
        self._last = (end,)
        return self._last

    def attend(self, core: Attend, after: Handle) -> Handle:
        """Attention as the scheme arranges it: of many plans, once for each unlike one, added as one piece of work."""
        group = self.context
        numbers = (core.batch, core.query, core.context, core.heads, core.kv_heads, group.size, group.stride)
        if self.scheme is beside or core.linear or all(np.ndim(number) == 0 for number in numbers):
            return self.scheme(core, self, after)
        table = np.stack(np.broadcast_arrays(*numbers), axis=-1).astype(float)
        unlike, place = np.unique(table.reshape(-1, len(numbers)), axis=0, return_inverse=True)
        costs = [self._alone(core, row.tolist()) for row in unlike]
        place = place.reshape(table.shape[:-1])
        fields = {
            name: np.array([getattr(one, name) for one in costs])[place]
            for name in (item.name for item in dataclasses.fields(Cost) if item.name != "sent")
        }
        kinds = sorted({kind for one in costs for kind in one.sent})
        sent = {kind: np.array([one.sent.get(kind, 0.0) for one in costs])[place] for kind in kinds}
        return self._piece(Cost(**fields, sent=sent), after)

    def _alone(self, core: Attend, row: list[float]) -> Cost:
        """Attention of one plan, from its numbers; worked out once."""
        batch, query, context, heads, kv_heads, size, stride = row
        mine = replace(core, batch=batch, query=query, context=context, heads=heads, kv_heads=kv_heads)
        known = _KNOWN.setdefault(self.kernels, {})
        key = (self.cluster, _named(self.scheme), mine, size, stride)
        if key not in known:
            known[key] = self._worked_out(mine, size, stride)
        return known[key]

    def _worked_out(self, mine: Attend, size: float, stride: float) -> Cost:
        assert self.groups is not None
        clock = Clock(self.cluster, self.kernels, replace(self.groups, cp=Group(self.cluster, int(size), int(stride))))
        if size == 1:
            clock.compute(block(mine, self.kernels), ())
        else:
            self.scheme(mine, clock, ())
        return clock.cost()

    def _piece(self, cost: Cost, after: Handle) -> Handle:
        """A piece of work that nothing runs beside."""
        end = np.maximum(self._free.get("compute", 0.0), _instant(after)) + cost.time
        self._free["compute"] = end
        self.compute_time = self.compute_time + cost.compute
        self.communication_time = self.communication_time + cost.communication
        self.sm_time = self.sm_time + cost.sm_time
        self.memory_bytes = self.memory_bytes + cost.memory_bytes
        self.link_bytes = self.link_bytes + cost.link_bytes
        self.nic_bytes = self.nic_bytes + cost.nic_bytes
        self.launches = self.launches + cost.launches
        for kind, size in cost.sent.items():
            self.sent[kind] = self.sent.get(kind, 0.0) + size
        self._last = (end,)
        return self._last

    def join(self, handles: tuple[Handle, ...]) -> Handle:
        """The latest of instants."""
        real = [handle[0] for handle in handles if handle]
        if not real:
            return ()
        latest = real[0]
        for other in real[1:]:
            latest = np.maximum(latest, other)
        return (latest,)

    def collective(
        self,
        cost: Collective,
        after: Handle,
        stream: str = "communication",
        units: int | None = None,
        shared: bool = True,
        group: Group | None = None,
        queued: bool = False,
    ) -> Handle:
        """Time of a collective on its stream; none at all where nothing is divided."""
        moves = np.greater(cost.time, 0)
        if not np.any(moves):
            return after
        if queued:
            after = self.join((after, self._last))
        overhead = np.where(moves, self.kernels.software.collective_overhead, 0.0)
        begin = np.maximum(self._free.get(stream, 0.0), _instant(after)) + overhead
        end = begin + cost.time
        self._free[stream] = np.where(moves, end, self._free.get(stream, 0.0))
        if shared:
            taken = cost.channels if units is None else units
            share = np.minimum(0.999, np.divide(taken, self.device.compute_units))
            self.sm_time = self.sm_time + cost.time * share
            self._beside.append((begin, end, share))
        self.communication_time = self.communication_time + cost.time + overhead
        self.memory_bytes = self.memory_bytes + cost.memory_bytes
        crossing = (group or self.tensor).crossed(cost)
        self.link_bytes = self.link_bytes + cost.sent_bytes - crossing
        self.nic_bytes = self.nic_bytes + crossing
        self.launches = self.launches + np.where(moves, 1, 0)
        self.sent[cost.kind] = self.sent.get(cost.kind, 0.0) + cost.sent_bytes
        return (np.where(moves, end, _instant(after)),)


def _named(scheme: Any) -> Any:
    """A scheme with its options as something to look up by; `TechniqueCall.emit` binds them anew every time."""
    return (scheme.func, tuple(sorted(scheme.keywords.items()))) if isinstance(scheme, partial) else scheme


def _instant(handle: Handle) -> Any:
    return handle[0] if handle else 0.0
