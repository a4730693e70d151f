"""A training scenario predicted, in closed form or by simulation, from the same parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...simulator import Program, Trace
from ..kernels import Kernels
from ..pipeline.program import pipeline_program
from ..techniques import TechniqueCall
from .cost import Cost
from .overlap import added
from .parts import Parts, parts_of
from .pipeline import pipeline_of
from .stages import stage_table
from .stragglers import slowdown
from .timing import Timing, alone, step_timing

if TYPE_CHECKING:
    from ..scenario import Scenario

Play = Callable[[Program], Trace]


@dataclass(frozen=True)
class Totals:
    """What a prediction adds up to, on the busiest rank.

    Parameters
    ----------
    time, compute, communication, exposed : float
        Seconds of the step; of kernels, of collectives, of collectives with no kernel beside them.
    memory_traffic : float
        Device-memory traffic [B].
    sent : dict
        Bytes sent, by kind of collective.
    bound : dict
        Seconds the step waits on each cause.
    """

    time: float
    compute: float
    communication: float
    exposed: float
    memory_traffic: float
    sent: dict[str, float]
    bound: dict[str, float]


def estimated(scenario: Scenario, call: TechniqueCall, play: Play) -> Totals:
    """Closed form of a training step.

    Parameters
    ----------
    scenario : Scenario
    call : TechniqueCall
    play : callable
        Plays the layers of a technique that has no closed form.
    """
    parts = training_parts(scenario, call, None if call.closed_form else play)
    timing = timing_of(scenario, parts)
    slow = slowdown(scenario.stragglers, scenario.plan.devices)
    time = float(timing.time)
    waiting = time - float((timing.pipeline + timing.weights) * slow + timing.update)
    compute = min(float(timing.busiest.compute) * slow, time - waiting)
    bubble = min(max(0.0, float(timing.bubble)), time - waiting - compute)
    return _totals(scenario, parts, timing, time, compute, time - waiting - compute - bubble, waiting)


def simulated(scenario: Scenario, call: TechniqueCall, play: Play) -> tuple[Totals, Trace]:
    """Discrete-event simulation of a training step: layers composed once, then the pipeline of them.

    Parameters
    ----------
    scenario : Scenario
    call : TechniqueCall
    play : callable
        Plays programs: those of single layers, and that of the step.

    Returns
    -------
    Totals, Trace
        The trace has one rank per pipeline stage.
    """
    parts = training_parts(scenario, call, play)
    timing = timing_of(scenario, parts)
    trace = play(step_program(scenario, parts))
    time = max(trace.makespan + scenario.workload.data_loading, scenario.workload.host_floor)
    inside = max(0.0, float(timing.busiest.exposed))
    compute = max(0.0, trace.busy("compute") - inside)
    exposed = min(trace.exposed("communication") + inside, trace.makespan - compute)
    return _totals(scenario, parts, timing, time, compute, exposed, time - trace.makespan), trace


def training_parts(scenario: Scenario, call: TechniqueCall, play: Play | None) -> Parts:
    """Parts of a scenario's training step.

    Parameters
    ----------
    scenario : Scenario
    call : TechniqueCall
    play : callable or None
        Plays the programs of single layers; None for the closed form.
    """
    kernels = Kernels(scenario.cluster.device, scenario.software, scenario.workload.dtype, training=True)
    return parts_of(scenario.model, scenario.cluster, kernels, scenario.workload, scenario.plan, call, play)


def timing_of(scenario: Scenario, parts: Parts) -> Timing:
    """Closed form of the step that the parts make."""
    plan = scenario.plan
    slow = slowdown(scenario.stragglers, plan.devices)
    return step_timing(parts, plan, scenario.workload, stage_table(scenario.model, plan), scenario.model.layers, slow)


def step_program(scenario: Scenario, parts: Parts) -> Program:
    """Program of the step, one simulated rank per pipeline stage."""
    cluster = scenario.cluster
    resources = {"sm": 1.0, "hbm": cluster.device.memory_bandwidth, "link": cluster.link.bandwidth}
    if cluster.nic is not None:
        resources["nic"] = cluster.nic.bandwidth
    return pipeline_program(pipeline_of(scenario, parts), resources, f"{scenario.model.name} training")


def _totals(
    scenario: Scenario, parts: Parts, timing: Timing, time: float, compute: float, exposed: float, waiting: float
) -> Totals:
    """Totals of a step, what it moves counted on the busiest stage; `waiting` is for data and the host."""
    plan, work = scenario.plan, scenario.workload
    counts = [*stage_table(scenario.model, plan).counts[0], 1.0, float(alone(plan))]
    once = Cost()  # what is not sent with every micro-batch
    if plan.zero < 2:
        once = once + added(counts, [*parts.reduce, *parts.reduce_ends])
    if plan.zero in (1, 2):
        once = once + added(counts, [*parts.gather, *parts.gather_ends])
    batches = work.global_batch // (plan.dp * work.micro_batch)
    total = timing.busiest + once + parts.transfer * (2.0 * batches * plan.vp if plan.pp > 1 else 0.0)
    bubble = max(0.0, time - waiting - compute - exposed)
    return Totals(
        time,
        compute,
        min(time, max(exposed, float(total.communication))),
        exposed,
        float(total.memory_bytes),
        {kind: float(size) for kind, size in total.sent.items() if size},
        {"compute": compute, "communication": exposed, "bubble": bubble, "data": waiting},
    )
