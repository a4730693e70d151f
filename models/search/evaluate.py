"""Memory and time of many plans at once, from the formulas a single plan's estimate is made of.

What a step is made of depends on few of a plan's axes each: a layer's passes on how it is divided and
on the micro-batch, its weights' collectives on the group that holds them. So each is costed where it
is unlike, and looked up by the plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..kernels import Kernels
from ..plan import Plan, Workload
from ..predict import technique_of
from ..scenario import Scenario
from ..training.compose import Passes
from ..training.cost import Cost
from ..training.memory import fits, training_memory
from ..training.parts import SPLIT, Parts, passes_of, ports_of, transfer_of, weights_of
from ..training.stages import StageTable, kinds, stage_table
from ..training.stragglers import slowdown
from ..training.timing import Timing, step_timing
from .enumerate import Choice, Columns, Space, chosen, plans_of

# Plans timed in one go: arrays of them stay in a core's cache.
AT_ONCE = 16_384
ASKED = ("time", "compute", "sm_time", "link_bytes", "nic_bytes")  # what timing asks of costs
DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp")

Costing = Callable[[Plan, Workload], dict[str, Any]]


@dataclass(frozen=True)
class Costed:
    """Plans of one choice with what they cost; arrays have one entry per plan.

    Parameters
    ----------
    choice : Choice
    plan : Plan
    micro_batch : numpy.ndarray of int
    memory : dict
        Bytes by use [B].
    timing : Timing or None
        None where only memory was asked for.
    slow : float or numpy.ndarray
        How much longer the slowest rank takes.
    """

    choice: Choice
    plan: Plan
    micro_batch: np.ndarray
    memory: dict[str, Any]
    timing: Timing | None
    slow: Any


class Block:
    """Some rows of degrees, and all that their plans share.

    Parameters
    ----------
    scenario : Scenario
    space : Space
    rows : dict
        Of `rows_of`.
    """

    def __init__(self, scenario: Scenario, space: Space, rows: Columns):
        self.scenario, self.space, self.rows = scenario, space, rows
        work = scenario.workload
        self.kernels = Kernels(scenario.cluster.device, scenario.software, work.dtype, training=True)
        self.technique = technique_of(scenario)
        self.slow = slowdown(scenario.stragglers, rows["devices"]) * np.ones(len(rows["tp"]))
        self._known: dict[tuple[Any, ...], Any] = {}

    def costed(self, choice: Choice, capacity: float) -> Iterator[tuple[int, Costed]]:
        """Plans of a choice that fit in a capacity, some at a time, each after the number tried for it.

        Parameters
        ----------
        choice : Choice
        capacity : float
            Device memory [B].
        """
        key = ("plans", choice.schedule, choice.sequence_parallel, choice.zero > 0, choice.shard_group)
        places, chunks = self._once(key, lambda: plans_of(self.space, self.rows, choice))
        for begin in range(0, len(places), AT_ONCE):
            some, vp = places[begin : begin + AT_ONCE], chunks[begin : begin + AT_ONCE]
            memory = self.memory(choice, some, vp)
            room = np.nonzero(fits(memory, self.scenario.software, capacity))[0]
            memory = {use: np.broadcast_to(size, some.shape)[room] for use, size in memory.items()}
            yield len(some), self.timed(choice, some[room], vp[room], memory)

    def memory(self, choice: Choice, places: np.ndarray, chunks: np.ndarray) -> dict[str, Any]:
        """Bytes on the fullest stage, by use [B]."""
        scenario = self.scenario
        plan, work = self._plan(choice, places, chunks), self._work(places)
        return training_memory(scenario.model, work, plan, scenario.software, self._stages(choice.schedule, plan))

    def timed(self, choice: Choice, places: np.ndarray, chunks: np.ndarray, memory: dict[str, Any]) -> Costed:
        """Plans with where their time goes."""
        micro_batch = self.rows["micro_batch"][places]
        plan, work, slow = self._plan(choice, places, chunks), self._work(places), self.slow[places]
        timing = None
        if len(places):
            parts, stages = self._parts(choice, places), self._stages(choice.schedule, plan)
            timing = step_timing(parts, plan, work, stages, self.scenario.model.layers, slow)
        return Costed(choice, plan, micro_batch, memory, timing, slow)

    # -- what plans are made of -------------------------------------------------------------------

    def _plan(self, choice: Choice, places: np.ndarray, chunks: Any) -> Plan:
        degrees = {name: self.rows[name][places] for name in DEGREES}
        return Plan(**degrees, vp=chunks, **{field.name: getattr(choice, field.name) for field in fields(choice)})

    def _work(self, places: np.ndarray) -> Workload:
        return replace(self.scenario.workload, micro_batch=self.rows["micro_batch"][places])

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _stages(self, schedule: str, plan: Plan) -> StageTable:
        """`stage_table` of the plans, looked up by pp and vp."""
        table, place = self._once(("stages", schedule), lambda: self._all_stages(schedule))
        at = place[plan.pp, plan.vp]
        return StageTable(**{field.name: getattr(table, field.name)[..., at] for field in fields(StageTable)})

    def _all_stages(self, schedule: str) -> tuple[StageTable, np.ndarray]:
        layers = self.space.layers
        stages = np.unique(self.rows["pp"])
        chunks = np.array([vp for vp in self.space.degrees["vp"] if (vp > 1) == (schedule == "interleaved")])
        pp, vp = (axis.ravel() for axis in np.meshgrid(stages, chunks, indexing="ij"))
        legal = pp * vp <= layers
        pp, vp = pp[legal], vp[legal]
        place = np.zeros((layers + 1, layers + 1), dtype=np.int64)
        place[pp, vp] = np.arange(len(pp))
        return stage_table(self.scenario.model, Plan(pp=pp, vp=vp, schedule=schedule)), place

    def _parts(self, choice: Choice, places: np.ndarray) -> Parts:
        """Parts of some plans, looked up where they were costed."""
        split = choice.schedule in SPLIT
        where = choice.placement
        outer = set(where.split("-")[1 + max(where.split("-").index(axis) for axis in ("tp", "cp")) :])
        inner = {"tp", "cp", "pp", "dp"} - outer  # axes that say how far the ranks of a layer are apart
        layer_axes = (*inner, "etp", "micro_batch")
        if self.space.experts:  # experts lie among the ranks that hold the same weights
            layer_axes = (*layer_axes, "ep", "dp")
        layers = self._table(
            ("layers", choice.sequence_parallel, choice.recompute, choice.recompute_layers is None, split, where),
            replace(choice, zero=0, shard_group=None, offload="none"),
            layer_axes,
            self._passes,
        )
        weights = self._table(
            ("weights", choice.zero > 0, choice.offload, choice.shard_group, where),
            replace(choice, sequence_parallel=False, recompute="none", recompute_layers=None),
            DEGREES,
            self._weights,
        )
        transfer = self._table(
            ("transfer", choice.sequence_parallel, where),
            replace(choice, zero=0, shard_group=None, offload="none", recompute="none", recompute_layers=None),
            ("tp", "cp", "dp", "pp", "micro_batch"),
            self._transfer,
        )
        found = {**layers.some(places), **weights.some(places), **transfer.some(places)}
        return Parts(kinds=kinds(self.scenario.model), **found, ports=ports_of(self.scenario.cluster))

    def _passes(self, plan: Plan, work: Workload) -> dict[str, Any]:
        case = self.scenario
        known = self._once(("composed", plan.sequence_parallel, plan.placement), dict)
        return passes_of(case.model, case.cluster, self.kernels, work, plan, self.technique, known=known)

    def _weights(self, plan: Plan, work: Workload) -> dict[str, Any]:
        return weights_of(self.scenario.model, self.scenario.cluster, self.kernels, plan)

    def _transfer(self, plan: Plan, work: Workload) -> dict[str, Any]:
        return {"transfer": transfer_of(self.scenario.model, self.scenario.cluster, self.kernels, work, plan)}

    def _table(self, key: tuple[Any, ...], choice: Choice, axes: tuple[str, ...], cost: Costing) -> _Table:
        found: _Table = self._once(key, lambda: self._made(choice, axes, cost))
        return found

    def _made(self, choice: Choice, axes: tuple[str, ...], cost: Costing) -> _Table:
        """Parts of the rows that are unlike in some axes, the others held at 1."""
        first, place = self._once(("unlike", axes), lambda: self._unlike(axes))
        unlike = chosen(self.rows, first)
        degrees: dict[str, Any] = {axis: unlike[axis] if axis in axes else 1 for axis in DEGREES}
        named = {field.name: getattr(choice, field.name) for field in fields(choice)}
        work = replace(self.scenario.workload, micro_batch=unlike["micro_batch"] if "micro_batch" in axes else 1)
        return _Table(cost(Plan(**degrees, **named), work), place)

    def _unlike(self, axes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The first of the rows that are alike in some axes, and which of these each row is like."""
        number: np.ndarray = np.zeros(len(self.rows["tp"]), dtype=np.int64)
        for axis in axes:
            values, place = np.unique(self.rows[axis], return_inverse=True)
            number = number * len(values) + place
        _, first, place = np.unique(number, return_index=True, return_inverse=True)
        return first, place


@dataclass(frozen=True)
class _Table:
    """Parts of unlike rows, and which of them each row of a block is."""

    parts: dict[str, Any]
    place: np.ndarray

    def some(self, places: np.ndarray) -> dict[str, Any]:
        """Parts of some rows, with what timing asks of costs; the rest of these is left behind."""
        at = self.place[places]

        def one(number: Any) -> Any:
            return number[at] if np.ndim(number) else number

        def take(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(map(take, part))
            if isinstance(part, Passes):
                return Passes(take(part.forward), take(part.backward), take(part.weight))
            numbers = {name: one(getattr(part, name)) for name in ASKED}
            return Cost(**numbers)

        found = {name: take(part) for name, part in self.parts.items() if name != "repeated"}
        if "repeated" in self.parts:
            alike = self.parts["repeated"] is self.parts["layers"]
            found["repeated"] = found["layers"] if alike else take(self.parts["repeated"])
        return found
