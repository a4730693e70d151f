"""Playing a program on the SimPy event kernel.

A task waits for its predecessor in the stream and for its dependencies, spends its latency, and
then runs its shared part as an activity. While nothing it uses is overloaded that is one timeout at
full speed. Otherwise all starts and ends of one instant are collected and the groups of activities
they touch get new speeds once, after everything else of that instant has happened. An activity or
group that is timed anew forgets the event it waited for, which then wakes nobody.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from simpy import Environment
from simpy.events import NORMAL, Event, EventPriority

from .pool import OVERLOAD, Group, Pool
from .program import Program
from .sharing import Use
from .trace import Rates, Trace

# Settling comes after every other event of its instant.
_LAST = EventPriority(NORMAL + 1)


class _Wake(Event):
    """A timeout that carries what it wakes. It always succeeds, so outcome and value are fixed."""

    _ok = True
    _value = None

    def __init__(
        self,
        env: Environment,
        callbacks: Any,  # a tuple shared by all events of a sort; SimPy makes a list for each
        subject: Any,
        delay: float,
        priority: EventPriority = NORMAL,
    ) -> None:
        self.env = env
        self.callbacks = callbacks
        self.subject = subject
        env.schedule(self, priority, delay)


def run(program: Program, record: bool = False) -> Trace:
    """Play a program.

    Parameters
    ----------
    program : Program
        What runs.
    record : bool, default False
        Keep the speed of every task over time too, for `Trace.utilisation` and counters.

    Returns
    -------
    Trace
        When each task started and ended. The same program always gives the same trace.
    """
    # A run makes many small objects and no cycles among them: looking for garbage is time lost.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _play(program, record)
    finally:
        if collecting:
            gc.enable()


def recorded(trace: Trace) -> Trace:
    """Return a trace with recorded speeds, playing its program again if need be."""
    return trace if trace.rates is not None else run(trace.program, record=True)


def _play(program: Program, record: bool) -> Trace:
    env = Environment()
    count = program.count
    uses, successors = program.uses, program.successors
    shared = cast(Sequence[Use], uses)  # where a task is known to use something
    durations, latencies = program.durations, program.latencies
    waits = list(program.waits)
    start, end = [0.0] * count, [0.0] * count
    wake: list[_Wake | None] = [None] * count
    history: list[tuple[float, int, float]] = []
    pool = Pool(
        uses, durations, len(program.resources),
        (lambda *entry: history.append(entry)) if record else None,
    )  # fmt: skip
    load, users, member, since, pool_end = pool.load, pool.users, pool.group, pool.since, pool.end
    pending = False  # whether this instant will be settled

    def begin(task: int, now: float) -> None:
        """Start the shared part of a task."""
        nonlocal pending
        crowded = pending
        for r, fraction, slope in shared[task].parts:
            users[r][task] = slope
            total = load[r] + fraction
            load[r] = total
            if total > OVERLOAD:
                crowded = True
                pool.dirty[r] = None
        since[task] = now
        if crowded:
            pool.fresh.append(task)
            if not pending:
                pending = True
                _Wake(env, on_settle, None, 0.0, _LAST)
            return
        duration = durations[task]
        pool_end[task] = now + duration
        if record:
            history.append((now, task, 1.0))
        wake[task] = _Wake(env, on_end, task, duration)

    def finish(tasks: list[int], now: float) -> None:
        """End tasks, and start what only waited for them."""
        nonlocal pending
        for task in tasks:  # grows by tasks that take no time at all
            end[task] = now
            wake[task] = None  # an alarm from before it joined a group may still be under way
            use = uses[task]
            if use is not None:
                disturbed = pending
                for r, fraction, _ in use.parts:
                    total = load[r]
                    there = users[r]
                    del there[task]
                    load[r] = total - fraction if there else 0.0
                    if total > OVERLOAD:
                        disturbed = True
                        pool.dirty[r] = None
                if disturbed or member[task] is not None:
                    pool.leave(task, disturbed)
                    if not pending:
                        pending = True
                        _Wake(env, on_settle, None, 0.0, _LAST)
            for other in successors[task]:
                left = waits[other] - 1
                waits[other] = left
                if not left:
                    ready(other, now, tasks)

    def ready(task: int, now: float, done: list[int]) -> None:
        start[task] = now
        if uses[task] is None:
            delay = latencies[task] + durations[task]
            if delay:
                wake[task] = _Wake(env, on_end, task, delay)
            else:
                done.append(task)
        elif latencies[task]:
            _Wake(env, on_begin, task, latencies[task])
        else:
            begin(task, now)

    def begins(event: _Wake) -> None:
        begin(event.subject, env.now)

    def ends(event: _Wake) -> None:
        task = event.subject
        if wake[task] is event and member[task] is None:
            finish([task], env.now)

    def group_ends(event: _Wake) -> None:
        group: Group = event.subject
        if group.alarm is event:
            finish(pool.due(group, env.now), env.now)

    def settle(event: _Wake) -> None:
        nonlocal pending
        pending = False
        now = env.now
        alone, groups = pool.settle(now)
        for task in alone:
            wake[task] = _Wake(env, on_end, task, max(pool_end[task] - now, 0.0))
        for group in groups:
            group.alarm = _Wake(env, on_group_end, group, max(pool_end[group.first] - now, 0.0))

    on_begin, on_end, on_group_end, on_settle = (begins,), (ends,), (group_ends,), (settle,)
    first: list[int] = []
    for task in range(count):
        if not waits[task]:
            ready(task, 0.0, first)
    finish(first, 0.0)
    env.run()
    rates = Rates.of(history) if record else None
    return Trace(program, np.array(start), np.array(end), rates)
