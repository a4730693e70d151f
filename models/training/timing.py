"""Time of a training step in closed form, from the costs of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..pipeline.closed_form import Stage, joined_passes, joint_gain, pipeline_time
from ..pipeline.orders import JOINT
from ..plan import Plan, Workload
from .cost import Cost
from .overlap import added, covered, heaviest, speeds
from .parts import Parts
from .sharding import Boundary, Triple, sharded
from .stages import StageTable


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a step goes; numbers or arrays with one entry per plan [s].

    Parameters
    ----------
    time : float
        The whole step.
    pipeline : float
        All micro-batches through all stages, bubbles and transfers included.
    bubble : float
        Of that, what the busiest stage waits.
    weights : float
        Gathering weights and adding up gradients, as far as nothing covers it.
    update : float
        Optimizer, with what must be known before it.
    busiest : Cost
        All work of the busiest stage in the step.
    """

    time: Any
    pipeline: Any
    bubble: Any
    weights: Any
    update: Any
    busiest: Cost


@dataclass(frozen=True, slots=True)
class StagePasses:
    """One micro-batch on stages.

    Parameters
    ----------
    stages : tuple of Triple
        The first stage first, the last one last; unlike ones between.
    before : tuple of float or array
        Seconds on all stages before each.
    whole : tuple of float or array
        Seconds of forward, backward and weight gradients on all stages together.
    fullest : float
        Seconds on the chunk with most layers.
    """

    stages: tuple[Triple, ...]
    before: tuple[Any, ...]
    whole: Stage
    fullest: Any


def stage_passes(parts: Parts, plan: Plan, table: StageTable, layers: int, batches: Any) -> StagePasses:
    """Add layers up to stages, with what every micro-batch gathers and scatters.

    Parameters
    ----------
    parts : Parts
    plan : Plan
    table : StageTable
    layers : int
        Of the model.
    batches : int
        Micro-batches of a step.
    """
    again: Any = 1.0
    if plan.recompute == "full" and plan.recompute_layers is not None:
        again = np.minimum(1.0, plan.recompute_layers * plan.pp * plan.vp / layers)
    boundary = Boundary.of(plan, layers, batches)
    each: list[tuple[Triple, Triple]] = []
    for kept, repeated, gather, reduce in zip(parts.layers, parts.repeated, parts.gather, parts.reduce, strict=True):
        backward = kept.backward
        if parts.repeated is not parts.layers:
            backward = backward * (1.0 - again) + repeated.backward * again
        each.append(sharded((kept.forward, backward, kept.weight), gather, reduce, plan, parts.ports, boundary))
    ends = [
        sharded((passes.forward, passes.backward, passes.weight), gather, reduce, plan, parts.ports, boundary)
        for passes, gather, reduce in zip(
            (parts.embedding, parts.head), parts.gather_ends, parts.reduce_ends, strict=True
        )
    ]
    dual = plan.schedule == "dualpipe"
    if plan.schedule in JOINT and plan.zero < 2:  # layer by layer beside their messages, passes are not joined
        joined = joined_passes(plan.schedule, plan.pp, plan.vp, batches) / batches
        each = [(_joined(one, joined), one) for one, _ in each]
    both = alone(plan)

    share = 0.5 if dual else 1.0  # of two chunks each sees half of the micro-batches

    def sums(row: Any, first: Any, last: Any) -> Triple:
        found = (added([*row, first, last], [one[0][i] for one in (*each, *ends)]) * share for i in range(3))
        return next(found), next(found), next(found)

    def seconds(row: Any, first: Any, last: Any, rested: int) -> Stage:
        counts = [count * share for count in (*row, first, last)]
        found = (sum(n * one[rested][i].time for n, one in zip(counts, (*each, *ends), strict=True)) for i in range(3))
        return next(found), next(found), next(found)

    stages, before = [], []
    for index, (row, earlier) in enumerate(zip(table.counts, table.before, strict=True)):
        first, last = index == 0, index == len(table.counts) - 1
        stages.append(sums(row, 1.0 if first else both if last else 0.0, 1.0 if last else both if first else 0.0))
        passed = seconds(earlier, 0.0 if first else 1.0, 0.0, rested=1)
        before.append(sum(passed) * np.where(np.equal(plan.pp, 1), 0.0, 1.0))
    every = [int(kind.members.sum()) * (2 if dual else 1) for kind in parts.kinds]
    ended = 2.0 if dual else 1.0
    fullest = sum(seconds(table.fullest, 0.0, 0.0, rested=0))
    # All stages but the one that sets the pace wait for their input.
    own = 0.0 if dual else 1.0 / plan.pp
    paced, waiting = (seconds(every, ended, ended, rested) for rested in (0, 1))
    whole = tuple(a * own + b * (1.0 - own) for a, b in zip(paced, waiting, strict=True))
    return StagePasses(tuple(stages), tuple(before), (whole[0], whole[1], whole[2]), fullest)


def _joined(passes: Triple, share: Any) -> Triple:
    """Passes of a layer, a share of whose forward passes run as one with a backward pass."""
    forward, backward, weight = passes
    other = backward + weight
    gain = joint_gain(forward.time, forward.exposed, other.time, other.exposed)
    return replace(forward, time=forward.time - gain * share), backward, weight


def alone(plan: Plan) -> Any:
    """1 where the first and the last stage are on one rank, else 0."""
    return np.where(np.equal(plan.pp, 1) | (plan.schedule == "dualpipe"), 1.0, 0.0)[()]


def _crowded(parts: Parts, plan: Plan, table: StageTable, passes: StagePasses) -> Any:
    """Seconds that scattering gradients adds to each micro-batch on the stage where it adds most."""
    if plan.zero != 2 or "gradients" not in plan.overlap:
        return 0.0
    both, found = alone(plan), []
    for index, (row, stage) in enumerate(zip(table.counts, passes.stages, strict=True)):
        first, last = index == 0, index == len(table.counts) - 1
        ends = [1.0 if first else both if last else 0.0, 1.0 if last else both if first else 0.0]
        beside = added([*row, *ends], [*parts.reduce, *parts.reduce_ends])
        whole = stage[0] + stage[1] + stage[2]
        found.append(covered(whole, beside, parts.ports).time - whole.time)
    most = found[0]
    for more in found[1:]:
        most = np.maximum(most, more)
    return most


def _arrival(parts: Parts, plan: Plan, stage: Triple) -> Any:
    """Seconds that an activation takes to the next stage, which goes on with passes of its own meanwhile.

    Where the sender waits for it, what it takes from these passes is added.
    """
    transfer = parts.transfer
    ours, theirs = speeds(stage[0] + stage[1], transfer, parts.ports)
    return transfer.time / theirs * (1.0 if "pipeline" in plan.overlap else 2.0 - ours)


def _scattered(parts: Parts, plan: Plan, table: StageTable, passes: StagePasses, batches: Any) -> Any:
    """Seconds after which the last stage has scattered all gradients, where it puts off making them (ZeRO-2).

    With zero-bubble it makes none before it has run as many micro-batches as there are stages.
    """
    if plan.zero != 2 or "gradients" not in plan.overlap or plan.schedule != "zero-bubble":
        return 0.0
    forward, backward, _ = passes.stages[-1]
    reduce = added([*table.counts[-1], alone(plan), 1.0], [*parts.reduce, *parts.reduce_ends])
    begun = passes.whole[0] - forward.time + np.minimum(batches, plan.pp) * (forward.time + backward.time)
    return begun + batches * reduce.time


def step_timing(parts: Parts, plan: Plan, work: Workload, table: StageTable, layers: int, slow: Any = 1.0) -> Timing:
    """Time of a step.

    Parameters
    ----------
    parts : Parts
    plan : Plan
    work : Workload
    table : StageTable
    layers : int
        Of the model.
    slow : float
        How much longer the slowest rank takes.
    """
    batches = np.floor_divide(work.global_batch, plan.dp * work.micro_batch)
    passes = stage_passes(parts, plan, table, layers, batches)
    totals = [forward + backward + weight for forward, backward, weight in passes.stages]
    busiest = heaviest(totals)
    pipeline = pipeline_time(
        plan.schedule,
        plan.pp,
        plan.vp,
        batches,
        passes.whole,
        [_seconds(stage) for stage in passes.stages],
        passes.before,
        passes.fullest,
        _arrival(parts, plan, passes.stages[0]),
        "pipeline" in plan.overlap,
    )
    pipeline = pipeline + (batches - 1) * _crowded(parts, plan, table, passes)
    weights = _weights(parts, plan, table.counts, passes, batches)
    weights = np.maximum(weights, _scattered(parts, plan, table, passes, batches) - pipeline)
    both = alone(plan)
    first = added([*table.counts[0], 1.0, both], [*parts.update, *parts.update_ends])
    last = added([*table.counts[-1], both, 1.0], [*parts.update, *parts.update_ends])
    update = heaviest((first, last)) + parts.sync
    time = np.maximum((pipeline + weights) * slow + update.time + work.data_loading, work.host_floor)
    return Timing(time, pipeline, pipeline - batches * busiest.time, weights, update.time, busiest * batches + update)


def bucket_layers(reduce: Cost, layers: Any, plan: Plan) -> Any:
    """Layers whose gradients share a message: as many as fill a bucket; one where they are scattered (ZeRO-2, 3).

    Parameters
    ----------
    reduce : Cost
        Gradients of some layers added up.
    layers : int
        How many.
    plan : Plan
    """
    if plan.zero >= 2:
        return 1.0
    each = (reduce.link_bytes + reduce.nic_bytes) / layers / (1 if plan.zero else 2)  # an all-reduce sends all twice
    return np.clip(np.ceil(plan.bucket / np.maximum(each, 1.0)), 1.0, layers)


def _seconds(passes: Triple) -> tuple[Any, Any, Any]:
    return passes[0].time, passes[1].time, passes[2].time


def _weights(parts: Parts, plan: Plan, counts: np.ndarray, passes: StagePasses, batches: Any) -> Any:
    """Exposed seconds of gathering weights and adding up gradients.

    The first stage ends the step: its last backward pass is the last of all.
    """
    both = alone(plan)
    chunks = 2 if plan.schedule == "dualpipe" else plan.vp
    gather = added([*counts[0], 1.0, both], [*parts.gather, *parts.gather_ends])
    reduce = added([*counts[0], 1.0, both], [*parts.reduce, *parts.reduce_ends])
    pieces = np.maximum(1.0, counts[0].sum(axis=0) / chunks)  # one message a layer
    found: Any = gather.time / pieces / chunks if plan.zero == 3 else 0.0  # the very first
    first, everything = passes.stages[0], passes.whole
    for what, cost, own, whole in (
        ("gradients", reduce, first[1] + first[2], everything[1] + everything[2]),
        ("parameters", gather, first[0], everything[0]),
    ):
        if (what == "parameters" and plan.zero == 3) or (
            what not in plan.overlap and plan.zero >= 2 and what == "gradients"
        ):
            continue  # within the passes
        if plan.zero == 3:
            found = found + cost.time / pieces / chunks  # the very last
            continue
        if what not in plan.overlap:
            found = found + cost.time
            continue
        # The messages of the chunk that is last in the step run beside its pass, those of the others
        # beside all passes between.
        count = (
            np.maximum(1.0, pieces / bucket_layers(cost * (1.0 / chunks), pieces, plan))
            if what == "gradients"
            else pieces
        )
        part, room = cost * (1.0 / chunks), own * ((1 - 1 / count) / plan.vp)
        beside = covered(room, part * (1 - 1 / count), parts.ports).time - room.time + part.time / count
        window = whole * (1 - 1 / chunks) + (0.0 if plan.schedule == "dualpipe" else room.time)
        found = found + np.maximum(beside, cost.time - window)
        if what == "gradients":
            # On its way back through the other stages the last micro-batch is slowed by their messages; with
            # several chunks a stage, so are the turns of all of them, as long as any stage sends.
            share = part.sm_time / np.where(np.greater(part.time, 0), part.time, 1.0)
            turn = np.minimum(batches, plan.pp) * own.time / plan.vp
            busy = np.minimum(1.0, plan.pp * part.time / np.maximum(turn, 1e-12))
            alone_in_turn = (plan.pp - 1) * np.minimum(part.time, own.time / plan.vp)
            found = found + share * np.where(np.greater(plan.vp, 1), plan.vp * turn * busy, alone_in_turn)
    return found
