"""Closed-form bounds of a program's time: the longest path, and everything one after another."""

from __future__ import annotations

import numpy as np

from .program import Program


def finish_times(program: Program) -> np.ndarray:
    """End of every task when nothing contends.

    Parameters
    ----------
    program : Program
        What runs.

    Returns
    -------
    numpy.ndarray, shape (tasks,)
        Seconds from the start of the program [s].
    """
    ends: list[float] = []
    for task, previous in zip(program.tasks, program.predecessors, strict=True):
        ready = ends[previous] if previous >= 0 else 0.0
        for other in task.after:
            if ends[other] > ready:
                ready = ends[other]
        ends.append(ready + task.latency + task.duration)
    return np.array(ends, dtype=float)


def critical_path_time(program: Program) -> float:
    """Time of the longest path through dependencies and stream order [s].

    No schedule is faster, and a run without contention takes exactly this.
    """
    return float(finish_times(program).max(initial=0.0))


def serial_time(program: Program) -> float:
    """Time of all tasks one after another [s]; no run is slower."""
    return sum(program.durations) + sum(program.latencies)
