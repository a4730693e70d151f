"""How a kernel is timed: warm-up, many repetitions, the median and how far repetitions lie apart.

Launches of a kernel take turns over copies of its operands that do not fit the cache together, so `run` is called
with the number of the launch. Short kernels are timed several at a time.

A processor may be shared with what nobody here sees: on a virtual machine one product takes twice as long in one second
as in the next. A reference product runs between the repetitions, and times are compared at one time of it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np

Run = Callable[[int], object]
"""Launches a kernel; its argument counts launches, for operands that take turns."""

LEAST, MOST = 5, 200  # repetitions
HOST_GROUP = 50e-6  # a group of launches on a host lasts this long at least: reading its clock takes 0.1 to 0.5 us [s]
DEVICE_GROUP = 200e-6  # and on a GPU: its events resolve about 0.5 us [s]
REFERENCE = 256  # side of the reference product: half a millisecond
REFERENCE_EVERY = 20e-3  # [s]
SETTLE, REFERENCES = 2, 3  # launches of it until its operands are back in the caches, and launches that count
GRAPH_CALLS = 50  # launches in a graph at most
WARM = 3  # launches before a GPU is timed


@dataclass(frozen=True, slots=True)
class Timing:
    """What repetitions of a kernel took.

    Parameters
    ----------
    seconds : float
        Median [s].
    low, high : float
        20th and 80th percentile [s].
    wall : float
        Median by the clock on the wall [s]; larger than `seconds` where other programs held the core.
    repetitions : int
    reference : float
        Median of the reference kernel between them [s]; 0 where there is none.
    """

    seconds: float
    low: float
    high: float
    wall: float
    repetitions: int
    reference: float = 0.0

    def at(self, reference: float) -> float:
        """Median at the pace at which the reference kernel takes that long [s]; as measured where 0 is given or known.

        Parameters
        ----------
        reference : float
            [s]
        """
        return self.seconds * reference / self.reference if reference and self.reference else self.seconds


def summary(times: Sequence[float], wall: Sequence[float] | None = None, reference: Sequence[float] = ()) -> Timing:
    """Median and spread of times [s]."""
    low, middle, high = np.percentile(np.asarray(times, dtype=float), [20, 50, 80])
    other = middle if wall is None else np.median(wall)
    pace = float(np.median(reference)) if len(reference) else 0.0
    return Timing(float(middle), float(low), float(high), float(other), len(times), pace)


def reference_product() -> Run:
    """Product of square matrices that the caches hold: shows how fast the processor is just now."""
    import torch

    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(REFERENCE, REFERENCE, generator=random) for _ in range(2))
    return lambda _: torch.mm(left, right)


class HostTimer:
    """Times kernels of a processor.

    With one thread the time is that which the thread ran: other programs on the same core do not count, page faults
    of the kernel do. With several it is the clock on the wall, and the machine has to be quiet.

    Parameters
    ----------
    threads : int
    budget : float
        Time for the repetitions of a kernel [s].
    reference : callable, optional
        Launches a kernel that is always the same, timed between the repetitions.
    """

    def __init__(self, threads: int, budget: float = 0.3, reference: Run | None = None):
        self.threads, self.budget, self.reference = threads, budget, reference
        self.clock = time.thread_time if threads == 1 else time.perf_counter

    def __call__(self, run: Run) -> Timing:
        """Time a kernel."""
        run(0)
        begin = time.perf_counter()
        run(1)
        group = max(1, ceil(HOST_GROUP / max(time.perf_counter() - begin, 1e-7)))
        times: list[float] = []
        walls: list[float] = []
        paces: list[float] = []
        launch, last, end = 2, -REFERENCE_EVERY, time.perf_counter() + self.budget
        while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
            if self.reference is not None and time.perf_counter() > last + REFERENCE_EVERY:
                paces.append(self.pace())
                last = time.perf_counter()
            wall, own = time.perf_counter(), self.clock()
            for i in range(launch, launch + group):
                run(i)
            times.append((self.clock() - own) / group)
            walls.append((time.perf_counter() - wall) / group)
            launch += group
        return summary(times, walls, paces)

    def pace(self) -> float:
        """Time of the reference kernel now [s]."""
        assert self.reference is not None
        times = []
        for launch in range(SETTLE + REFERENCES):
            own = self.clock()
            self.reference(launch)
            times.append(self.clock() - own)
        return float(np.median(times[SETTLE:]))


class CudaTimer:
    """Times kernels of a GPU by events between batches of launches, from a graph where they can be captured in one.

    Batches follow one another: while one runs the host launches the next, so that no time of the host is in them.

    Parameters
    ----------
    budget : float
        Time for the repetitions of a kernel [s].
    """

    threads = 0

    def __init__(self, budget: float = 0.1):
        self.budget = budget

    def __call__(self, run: Run) -> Timing:
        """Time a kernel."""
        for i in range(WARM):
            run(i)
        calls = calls_of(self.times(lambda: run(WARM), 1)[0])
        batch = self.captured(run, calls) or repeated(run, calls)
        took = max(self.times(batch, 1)[0], 1e-7)
        count = min(MOST, max(LEAST, int(self.budget / took)))
        return summary([time / calls for time in self.times(batch, count)])

    @staticmethod
    def times(batch: Callable[[], object], count: int) -> list[float]:
        """Times of batches one behind the other, after one that is not counted [s].

        Parameters
        ----------
        batch : callable
        count : int
        """
        import torch

        marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
        batch()
        marks[0].record()
        for mark in marks[1:]:
            batch()
            mark.record()
        marks[-1].synchronize()
        return [float(1e-3 * before.elapsed_time(after)) for before, after in pairwise(marks)]

    @staticmethod
    def captured(run: Run, calls: int) -> Callable[[], object] | None:
        """Launches as one graph, so that gaps between them are the device's; None for what cannot be captured."""
        import torch

        if waits(run):
            return None
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads (the watchdog of nccl) may ask for events meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                repeated(run, calls)()
        except RuntimeError:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own behind
            with suppress(RuntimeError):
                torch.cuda.synchronize()
            return None
        return graph.replay


def calls_of(seconds: float) -> int:
    """Launches of a kernel between two events, long enough for their resolution."""
    return min(GRAPH_CALLS, max(1, ceil(DEVICE_GROUP / max(seconds, 1e-7))))


def repeated(run: Run, calls: int) -> Callable[[], object]:
    """Launches one behind the other."""

    def batch() -> None:
        for i in range(calls):
            run(i)

    return batch


def waits(run: Run) -> bool:
    """Whether a kernel makes the host wait for the GPU.

    A capture that meets such a kernel fails, and with some releases of torch so does every later one.
    """
    import torch

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        run(0)
    except RuntimeError as problem:
        if "synchronizing" not in str(problem):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False
