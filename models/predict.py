"""From a scenario to a result: build the program of each phase, play it, add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..hardware.units import format_size
from ..simulator import Program, Trace, finish_times, run
from ..simulator.result import Result
from .build import Builder
from .drawn import baseline, by_shares, drawn_phases, drawn_step, relative
from .fitted import fitted
from .flops import model_flops
from .groups import process_groups
from .kernels import Kernels
from .layers import Layers
from .memory import footprint
from .plan import Plan, Workload
from .routed import Routed
from .scenario import Scenario
from .step import Phase, phases
from .techniques import TechniqueCall, combined
from .training.memory import fits
from .training.predict import Totals, estimated, simulated, step_program, training_parts
from .uncertainty import Draws, bounds, normal_bounds, spreads_of, step_spread


def simulate(scenario: Scenario) -> Result:
    """Predict by discrete-event simulation: tasks share what they touch.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    Result
        With a trace per phase.
    """
    if scenario.workload.phase == "training":
        with _collected():
            totals, trace = simulated(scenario, technique_of(scenario), run)
        return _result(scenario, totals, {"training": trace}, {"training": 1})
    return _predict(scenario, run)


def estimate(scenario: Scenario) -> Result:
    """Predict in closed form: the longest path through the program, nothing slowed by sharing.

    The same formulas and the same program as `simulate`, so the two agree where nothing contends.
    """
    if scenario.workload.phase == "training":
        with _collected():
            return _result(scenario, estimated(scenario, technique_of(scenario), uncontended), {}, {})
    return _predict(scenario, uncontended)


def uncontended(program: Program) -> Trace:
    """Trace of a program in which nothing contends."""
    import numpy as np

    ends = finish_times(program)
    spans = np.asarray(program.durations) + np.asarray(program.latencies)
    return Trace(program, ends - spans, ends)


def programs(scenario: Scenario) -> Iterator[tuple[str, Program, int]]:
    """(phase, program, repetitions) of everything the scenario runs on one replica."""
    call = technique_of(scenario)
    if scenario.workload.phase == "training":
        yield "training", step_program(scenario, training_parts(scenario, call, run)), 1
        return
    plan, cluster = scenario.plan, scenario.cluster
    kernels, passes = _phases(scenario, call)
    groups = None if plan.cp == 1 and plan.ep == 1 else process_groups(cluster, plan)
    for phase in passes:
        name = f"{scenario.model.name} {phase.name}, {call.label}"
        if groups is not None and not scenario.fold and plan.tp == 1 and plan.ep == 1:
            build: Builder = Routed(name, cluster, kernels, groups)
        else:
            build = Builder(name, cluster, kernels, plan.tp, scenario.fold, groups)
        for step in phase.steps:
            build.start = build.compute(step.entry, after=build.start)
            done = call.emit(step, build)
            build.start = build.compute(step.exit, after=done)
        yield phase.name, build.program, phase.repeat


def _phases(scenario: Scenario, call: TechniqueCall) -> tuple[Kernels, tuple[Phase, ...]]:
    """Phases of inference, and the kernels they are made of."""
    plan = scenario.plan
    kernels = Kernels(scenario.cluster.device, scenario.software, scenario.workload.dtype)
    routing, crowd = scenario.workload.routing, 1.0
    whole = plan.cp == 1 and plan.ep == 1 and not plan.sequence_parallel
    division = plan.tp if whole else plan.division
    layers = decoding = Layers(scenario.model, kernels, division, routing=routing)
    if any(one.technique.gathers_tokens for one in call.every):  # what the busiest rank has is in all of its work
        crowd = float(routing.load(plan.ep))
        decoding = Layers(scenario.model, kernels, division, routing=replace(routing, imbalance=1.0))
    return kernels, phases(scenario, layers, decoding, crowd)


def drawn(scenario: Scenario, result: Result) -> Any:
    """What the result's time may be instead, as factors of it in many draws; None where nothing was calibrated.

    Draws of two scenarios are paired: what both have in common is off by the same factor in both.

    Parameters
    ----------
    scenario : Scenario
    result : Result
        Of the scenario.

    Returns
    -------
    array of shape (samples,), or None
    """
    spreads = spreads_of(scenario)
    if spreads is None:
        return None
    draws, call = Draws(spreads, scenario.seed), technique_of(scenario)
    timed = call if call.closed_form else baseline()
    with _collected():
        if scenario.workload.phase == "training":
            found = drawn_step(scenario, timed, draws)
        else:
            found = drawn_phases(scenario, timed, *_phases(scenario, timed), draws)
    if call.closed_form:
        factors = relative(found)
    else:
        factors = by_shares(found, result.compute_s, result.exposed_communication_s)
    return factors * draws.stack() * draws.technique(call)


def _interval(scenario: Scenario, result: Result) -> tuple[float, float] | None:
    """The 90 % interval of a result's time [s]."""
    spreads = spreads_of(scenario)
    if spreads is None:
        return None
    low, high = bounds(drawn(scenario, result)) if spreads.whole is None else normal_bounds(spreads.whole)
    return result.time_s * low, result.time_s * high


def technique_of(scenario: Scenario) -> TechniqueCall:
    """The techniques that arrange the program, as one; the baseline where none is named.

    Raises
    ------
    InputError
        When several techniques of one family are named: they replace each other.
    """
    return combined(scenario.techniques)


def _predict(scenario: Scenario, play: Callable[[Program], Trace]) -> Result:
    traces: dict[str, Trace] = {}
    repeats: dict[str, int] = {}
    sent: dict[str, float] = {}
    time = compute = communication = exposed = traffic = 0.0
    bound: dict[str, float] = {}
    with _collected():
        for phase, program, repeat in programs(scenario):
            trace = play(program)
            traces[phase], repeats[phase] = trace, repeat
            time += repeat * trace.makespan
            compute += repeat * trace.busy("compute")
            communication += repeat * trace.busy("communication")
            exposed += repeat * trace.exposed("communication")
            for what, share in trace.bound().items():
                bound[what] = bound.get(what, 0.0) + repeat * trace.makespan * share
            for task in program.tasks:
                if task.rank == 0 and task.info:
                    traffic += repeat * float(task.info.get("memory_bytes", 0.0))
                    if "communication" in task.info:
                        kind = str(task.info["communication"])
                        sent[kind] = sent.get(kind, 0.0) + repeat * float(task.info["communication_bytes"])
    return _result(scenario, Totals(time, compute, communication, exposed, traffic, sent, bound), traces, repeats)


def _result(scenario: Scenario, totals: Totals, traces: dict[str, Trace], repeats: dict[str, int]) -> Result:
    work, plan, device, time = scenario.workload, scenario.plan, scenario.cluster.device, totals.time
    tokens = _tokens(work)
    flops = model_flops(scenario.model, work) / plan.devices
    call = technique_of(scenario)
    memory = footprint(scenario.model, work, plan, scenario.software)
    for one in call.every:
        memory = one.technique.holds(memory, plan) if one.technique.holds else memory
    room = bool(memory["total"] <= device.memory_capacity)
    if work.phase == "training":
        room = bool(fits(memory, scenario.software, device.memory_capacity))
    result = Result(
        technique=call.label,
        time_s=time,
        tokens_per_second=tokens / time,
        tokens_per_second_per_device=tokens / time / plan.devices,
        model_flops_per_device=flops,
        mfu=flops / time / device.flops(work.dtype),
        compute_s=totals.compute,
        communication_s=totals.communication,
        exposed_communication_s=totals.exposed,
        communication_bytes=dict(sorted(totals.sent.items())),
        memory_traffic_bytes=totals.memory_traffic,
        memory_bytes=memory,
        fits=room,
        bound={k: v / time for k, v in sorted(totals.bound.items()) if v},
        interval_s=None,
        warnings=tuple(_warnings(scenario, call, totals.sent, memory, room)),
        traces=traces,
        repeats=repeats,
    )
    return replace(result, interval_s=_interval(scenario, result))


def _tokens(work: Workload) -> float:
    per_sequence = {"generate": work.new_tokens, "decode": 1}.get(work.phase, work.sequence_length)
    return float(work.global_batch * per_sequence)


def _warnings(
    scenario: Scenario,
    call: TechniqueCall,
    sent: Mapping[str, float],
    memory: Mapping[str, float],
    fits: bool,
) -> Iterator[str]:
    plan: Plan = scenario.plan
    device = scenario.cluster.device
    if not sent:
        yield "nothing was communicated" + (" (plan.tp and plan.dp are 1)" if plan.devices == 1 else "")
    if not fits:
        yield f"memory does not fit: {format_size(memory['total'])} of {format_size(device.memory_capacity)}"
    for one in call.every:
        text = one.technique.warns(scenario.model, plan, device) if one.technique.warns else ""
        if text:
            yield text
    measured = fitted(device)
    if measured is not None and not measured.home:
        yield f"kernels of {device.profile} were measured on {measured.measured_on}: shares of its peaks are taken"
    lost = scenario.workload.routing.dropped()
    if lost:
        yield f"{lost:.1%} of the copies of tokens find no room at capacity {scenario.workload.routing.capacity:g}"
    stack = scenario.software
    if step_spread(scenario) is None and (stack.error is not None or measured is not None):
        what = "no interval" if measured is None else "the interval is that of kernels and collectives alone"
        yield f"software profile {stack.name} was not calibrated on {device.name}: {what}"


@contextmanager
def _collected() -> Iterator[None]:
    """Keep the garbage collector from walking growing programs again and again."""
    import gc

    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
