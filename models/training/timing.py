"""Time of a training step in closed form, from the costs of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..pipeline.closed_form import joint_gain, pipeline_time
from ..plan import Plan, Workload
from .cost import Cost, Ports
from .overlap import added, at_once, covered, heaviest
from .parts import SPLIT, Parts
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


Triple = tuple[Cost, Cost, Cost]  # forward, backward, weight gradients


@dataclass(frozen=True, slots=True)
class StagePasses:
    """One micro-batch on stages.

    Parameters
    ----------
    stages : tuple of Triple
        The first stage first, the last one last; unlike ones between.
    before : tuple of float or array
        Seconds on all stages before each.
    whole : Triple
        All stages together.
    fullest : float
        Seconds on the chunk with most layers.
    """

    stages: tuple[Triple, ...]
    before: tuple[Any, ...]
    whole: Triple
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
    each: list[Triple] = []
    for kept, repeated, gather, reduce in zip(parts.layers, parts.repeated, parts.gather, parts.reduce, strict=True):
        backward = kept.backward
        if parts.repeated is not parts.layers:
            backward = backward * (1.0 - again) + repeated.backward * again
        each.append(_sharded((kept.forward, backward, kept.weight), gather, reduce, plan, parts.ports))
    ends = [
        _sharded((passes.forward, passes.backward, passes.weight), gather, reduce, plan, parts.ports)
        for passes, gather, reduce in zip(
            (parts.embedding, parts.head), parts.gather_ends, parts.reduce_ends, strict=True
        )
    ]
    dual = plan.schedule == "dualpipe"
    if dual and plan.zero < 2:  # layer by layer beside their messages, passes are not joined
        # All but filling and draining: m - 1.5 pp + 1 of m passes on the outermost rank, m - pp on the innermost.
        joined = np.clip((batches - 1.25 * plan.pp + 0.5) / batches, 0.0, 1.0)
        each = [_joined(one, joined) for one in each]
    both = alone(plan)

    def sums(row: Any, first: Any, last: Any) -> Triple:
        share = 0.5 if dual else 1.0  # of two chunks each sees half of the micro-batches
        found = (added([*row, first, last], [one[i] for one in (*each, *ends)]) * share for i in range(3))
        return next(found), next(found), next(found)

    stages, before = [], []
    for index, (row, earlier) in enumerate(zip(table.counts, table.before, strict=True)):
        first, last = index == 0, index == len(table.counts) - 1
        stages.append(sums(row, 1.0 if first else both if last else 0.0, 1.0 if last else both if first else 0.0))
        passed = sums(earlier, 0.0 if first else 1.0, 0.0)
        before.append(sum(cost.time for cost in passed) * np.where(np.equal(plan.pp, 1), 0.0, 1.0))
    every = [int(kind.members.sum()) * (2 if dual else 1) for kind in parts.kinds]
    ended = 2.0 if dual else 1.0
    fullest = sum(cost.time for cost in sums(table.fullest, 0.0, 0.0))
    return StagePasses(tuple(stages), tuple(before), sums(every, ended, ended), fullest)


def _joined(passes: Triple, share: Any) -> Triple:
    """Passes of a layer in dualpipe, a share of whose forward passes run as one with a backward pass."""
    forward, backward, weight = passes
    other = backward + weight
    gain = joint_gain(forward.time, forward.exposed, other.time, other.exposed)
    return replace(forward, time=forward.time - gain * share), backward, weight


def alone(plan: Plan) -> Any:
    """1 where the first and the last stage are on one rank, else 0."""
    return np.where(np.equal(plan.pp, 1) | (plan.schedule == "dualpipe"), 1.0, 0.0)[()]


def _sharded(passes: Triple, gather: Cost, reduce: Cost, plan: Plan, ports: Ports) -> Triple:
    """Passes of a layer with the messages of every micro-batch.

    Divided weights are gathered for each pass, one layer ahead, and freed after it (ZeRO-3). Divided gradients
    are scattered as they are made (ZeRO-2 and 3); where that overlaps, no pass waits for it, and what it takes
    of kernels and of the pace of a stage is added for whole stages.
    """
    forward, backward, weight = passes
    if plan.zero == 3 and "parameters" in plan.overlap:
        forward, backward = covered(forward, gather, ports), covered(backward, gather, ports)
    elif plan.zero == 3:
        forward, backward = forward + gather, backward + gather
    if plan.zero >= 2 and "gradients" not in plan.overlap:
        if plan.schedule in SPLIT:  # gradients of weights come with their own passes
            weight = weight + reduce
        else:
            backward = backward + reduce
    return forward, backward, weight


def _crowded(parts: Parts, plan: Plan, table: StageTable, passes: StagePasses) -> Any:
    """Seconds that scattering gradients adds to each micro-batch on the stage where it adds most."""
    if plan.zero < 2 or "gradients" not in plan.overlap:
        return 0.0
    both, found = alone(plan), []
    for index, (row, stage) in enumerate(zip(table.counts, passes.stages, strict=True)):
        first, last = index == 0, index == len(table.counts) - 1
        ends = [1.0 if first else both if last else 0.0, 1.0 if last else both if first else 0.0]
        beside = added([*row, *ends], [*parts.reduce, *parts.reduce_ends])
        whole = stage[0] + stage[1] + stage[2]
        together: Any = 0.0
        if plan.zero == 3:  # gathers of both passes share ports with it, not with messages among the kernels
            gathers = added([*row, *ends], [*parts.gather, *parts.gather_ends]) * 2.0
            together = at_once(gathers, beside, parts.ports).time
            own = whole.link_bytes - gathers.link_bytes, whole.nic_bytes - gathers.nic_bytes
            whole = replace(whole, link_bytes=own[0], nic_bytes=own[1])
        found.append(np.maximum(covered(whole, beside, parts.ports).time, together) - whole.time)
    most = found[0]
    for more in found[1:]:
        most = np.maximum(most, more)
    return most


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
        _seconds(passes.whole),
        [_seconds(stage) for stage in passes.stages],
        passes.before,
        passes.fullest,
        parts.transfer.time,
        "pipeline" in plan.overlap,
    )
    pipeline = pipeline + (batches - 1) * _crowded(parts, plan, table, passes)
    weights = _weights(parts, plan, table.counts, passes, batches)
    both = alone(plan)
    first = added([*table.counts[0], 1.0, both], [*parts.update, *parts.update_ends])
    last = added([*table.counts[-1], both, 1.0], [*parts.update, *parts.update_ends])
    update = heaviest((first, last)) + parts.sync
    time = (pipeline + weights) * slow + update.time + work.data_loading
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
    gather = added([*counts[0], 1.0, both], [*parts.gather, *parts.gather_ends])
    reduce = added([*counts[0], 1.0, both], [*parts.reduce, *parts.reduce_ends])
    pieces = np.maximum(1.0, counts[0].sum(axis=0) / plan.vp)  # one message a layer
    found: Any = gather.time / pieces / plan.vp if plan.zero == 3 else 0.0  # the very first
    first, everything = passes.stages[0], passes.whole
    for what, cost, own, whole in (
        ("gradients", reduce, first[1] + first[2], everything[1] + everything[2]),
        ("parameters", gather, first[0], everything[0]),
    ):
        if (what == "parameters" and plan.zero == 3) or (
            what not in plan.overlap and plan.zero >= 2 and what == "gradients"
        ):
            continue  # within the passes
        if what not in plan.overlap:
            found = found + cost.time
            continue
        # The messages of the chunk that is last in the step run beside its pass, those of the others
        # beside all passes between.
        count = (
            np.maximum(1.0, pieces / bucket_layers(cost * (1.0 / plan.vp), pieces, plan))
            if what == "gradients"
            else pieces
        )
        part, room = cost * (1.0 / plan.vp), own * ((1 - 1 / count) / plan.vp)
        beside = covered(room, part * (1 - 1 / count), parts.ports).time - room.time + part.time / count
        window = room.time + whole.time * (1 - 1 / plan.vp)
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
