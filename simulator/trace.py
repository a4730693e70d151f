"""What came out of a run: when each task started and ended, and what that says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .program import Program

if TYPE_CHECKING:
    import pandas

_BOUND_OF_KIND = {
    "compute": "compute",
    "communication": "communication",
    "memory": "memory",
    "sync": "latency",
}


@dataclass(frozen=True, slots=True)
class Rates:
    """Speeds of tasks over time, piecewise constant.

    Attributes
    ----------
    time : numpy.ndarray, shape (changes,)
        When a speed was set [s], ascending.
    task : numpy.ndarray of int, shape (changes,)
        Whose.
    speed : numpy.ndarray, shape (changes,)
        Fraction of the isolated speed, until the task's next change or its end.
    """

    time: np.ndarray
    task: np.ndarray
    speed: np.ndarray

    @classmethod
    def of(cls, history: Sequence[tuple[float, int, float]]) -> Rates:
        """Collect (time, task, speed) entries."""
        time, task, speed = zip(*history, strict=True) if history else ((), (), ())
        return cls(np.array(time, float), np.array(task, np.int64), np.array(speed, float))


class Trace:
    """Start and end of every task of a program.

    Parameters
    ----------
    program : Program
        What ran.
    start : numpy.ndarray, shape (tasks,)
        When each task became ready and began its latency [s].
    end : numpy.ndarray, shape (tasks,)
        When it ended [s].
    rates : Rates, optional
        Speeds over time, if they were recorded.
    """

    def __init__(self, program: Program, start: np.ndarray, end: np.ndarray, rates: Rates | None = None) -> None:
        self.program = program
        self.start = start
        self.end = end
        self.rates = rates

    @property
    def makespan(self) -> float:
        """Time from the start of the program to its last end [s]."""
        return float(self.end.max(initial=0.0))

    @cached_property
    def kinds(self) -> np.ndarray:
        """Kind of each task, shape (tasks,)."""
        return np.array([task.kind for task in self.program.tasks], dtype=object)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Rank of each task, shape (tasks,)."""
        return np.array([task.rank for task in self.program.tasks], dtype=np.int64)

    def busy(self, kind: str | Iterable[str]) -> float:
        """Time in which a task of some kind runs, on the rank where that is longest [s].

        Parameters
        ----------
        kind : str or iterable of str
            Which kinds count; tasks that overlap count once.
        """
        return max((_length(self._spans(rank, kind)) for rank in np.unique(self.ranks)), default=0.0)

    def exposed(self, kind: str = "communication", under: str | Iterable[str] = ("compute", "memory")) -> float:
        """Time in which one kind runs with nothing over it, on the rank where that is longest [s].

        Parameters
        ----------
        kind : str, default "communication"
            What should be hidden.
        under : str or iterable of str, default ("compute", "memory")
            What hides it, when it runs on the same rank.
        """
        hiding = (under,) if isinstance(under, str) else tuple(under)
        longest = 0.0
        for rank in np.unique(self.ranks):
            cover = self._spans(rank, hiding)
            both = np.concatenate([self._spans(rank, kind), cover])
            longest = max(longest, _length(both) - _length(cover))
        return longest

    def critical_path(self) -> list[int]:
        """Tasks that the end of the program waited for, first to last.

        Each one started when the one before it ended: of all it waited for, the last to end.
        """
        program = self.program
        if not program.count:
            return []
        path = []
        task = int(self.end.argmax())
        while task >= 0:
            path.append(task)
            before = [*program.tasks[task].after]
            if program.predecessors[task] >= 0:
                before.append(program.predecessors[task])
            task = max(before, key=self.end.__getitem__, default=-1)
        return path[::-1]

    def bound(self) -> dict[str, float]:
        """Shares of the makespan by what the critical path waits on.

        The fixed part of a task on the path counts as ``latency`` (so do ``sync`` tasks), the rest
        as its kind, or as what its ``info["bound"]`` names; time in which the path stands still
        would be ``idle``.

        Returns
        -------
        dict of str to float
            Shares of 1, at least of compute, communication, memory, latency and idle.
        """
        shares = dict.fromkeys(("compute", "communication", "memory", "latency", "idle"), 0.0)
        total = self.makespan
        if total <= 0:
            return {**shares, "idle": 1.0}
        for number in self.critical_path():
            task = self.program.tasks[number]
            lasted = float(self.end[number] - self.start[number])
            fixed = min(task.latency, lasted)
            what = str(task.info.get("bound", _BOUND_OF_KIND[task.kind]))
            shares["latency"] += fixed / total
            shares[what] = shares.get(what, 0.0) + (lasted - fixed) / total
        shares["idle"] = max(0.0, 1.0 - sum(shares.values()))
        return shares

    def utilisation(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Use of each resource over time.

        Returns
        -------
        dict of str to (time, fraction)
            For each resource, when its use changed [s] and the fraction of its capacity in use from
            then on; the last entry is 0.

        Raises
        ------
        ValueError
            Speeds were not recorded.
        """
        if self.rates is None:
            raise ValueError("speeds were not recorded (legal: run(program, record=True))")
        uses = self.program.uses
        owner = [i for i, use in enumerate(uses) if use is not None for _ in use.parts]
        which = [r for use in uses if use is not None for r, _, _ in use.parts]
        fraction = [part for use in uses if use is not None for _, part, _ in use.parts]
        offset = np.searchsorted(owner, np.arange(len(uses) + 1))
        resource, weight = np.array(which, np.int64), np.array(fraction, float)

        # A change of speed is a step; the end of a task is a step back to nothing.
        active = np.unique(self.rates.task)
        task = np.concatenate([self.rates.task, active])
        time = np.concatenate([self.rates.time, self.end[active]])
        speed = np.concatenate([self.rates.speed, np.zeros(len(active))])
        order = np.argsort(task, kind="stable")
        task, time, speed = task[order], time[order], speed[order]
        step = np.diff(speed, prepend=0.0)  # each task's last entry is 0, so it starts from 0 too

        width = offset[task + 1] - offset[task]
        entry = np.repeat(np.arange(len(task)), width)
        part = offset[task[entry]] + np.arange(len(entry)) - np.repeat(np.cumsum(width) - width, width)
        where, when, change = resource[part], time[entry], step[entry] * weight[part]
        return {
            name: _staircase(when[where == number], change[where == number])
            for number, name in enumerate(self.program.resources)
        }

    def frame(self) -> pandas.DataFrame:
        """Return one row per task, with a column for everything in ``info``."""
        import pandas

        tasks = self.program.tasks
        table = pandas.DataFrame(
            {
                "name": [task.name for task in tasks],
                "kind": self.kinds,
                "rank": self.ranks,
                "stream": [task.stream for task in tasks],
                "start_s": self.start,
                "end_s": self.end,
                "latency_s": self.program.latencies,
                "isolated_s": self.program.durations,
            },
            index=pandas.RangeIndex(len(tasks), name="task"),
        )
        shared = (self.end - self.start) - np.array(self.program.latencies, dtype=float)
        alone = np.array(self.program.durations, dtype=float)
        table["slowdown"] = np.divide(shared, alone, out=np.ones(len(tasks)), where=alone > 0)
        for key in dict.fromkeys(key for task in tasks for key in task.info):
            table[key] = [task.info.get(key) for task in tasks]
        return table

    def _spans(self, rank: int, kind: str | Iterable[str]) -> np.ndarray:
        kinds = [kind] if isinstance(kind, str) else list(kind)
        chosen = (self.ranks == rank) & np.isin(self.kinds, kinds)
        return np.stack([self.start[chosen], self.end[chosen]], axis=1)

    def __repr__(self) -> str:
        """Return a one-line description."""
        name, count = self.program.name, self.program.count
        return f"Trace({name!r}, tasks={count}, makespan={self.makespan:.6g} s)"


def _length(spans: np.ndarray) -> float:
    """Length of the union of intervals, shape (intervals, 2)."""
    if not len(spans):
        return 0.0
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    covered = np.concatenate([[spans[0, 0]], reach[:-1]])
    return float(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], covered), 0.0).sum())


def _staircase(when: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up steps into levels, one per instant, clearing what rounding leaves."""
    times, place = np.unique(when, return_inverse=True)
    levels = np.cumsum(np.bincount(place, weights=change, minlength=len(times)))
    levels[np.abs(levels) < 1e-9] = 0.0
    return times, levels
