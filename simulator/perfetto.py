"""Writing a trace as Chrome Trace Event JSON, which Perfetto (ui.perfetto.dev) opens.

A rank is a process and a stream a thread; arrows join a task to what waited for it on another
stream; one counter per resource shows how much of it is in use.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

from .engine import recorded
from .trace import Trace

Event = dict[str, Any]


def _microseconds(time: float) -> float:
    # The format counts microseconds; viewers keep whole nanoseconds.
    return round(time * 1e6, 3)


def events(trace: Trace) -> list[Event]:
    """Return the events of a trace: metadata first, then everything else by time.

    Parameters
    ----------
    trace : Trace
        A run; it is repeated if its speeds were not recorded, which the counters need.

    Returns
    -------
    list of dict
        Events with ``ts`` and ``dur`` in microseconds [us].
    """
    trace = recorded(trace)
    threads = _threads(trace)
    timed = [*_slices(trace, threads), *_flows(trace, threads), *_counters(trace, threads)]
    timed.sort(key=lambda event: event["ts"])  # stable, so a flow follows the slice it leaves
    return [*_names(trace, threads), *timed]


def write(trace: Trace, path: str | PathLike[str]) -> None:
    """Write a trace as Chrome JSON, compressed when the name ends in ``.gz``.

    Parameters
    ----------
    trace : Trace
        A run.
    path : path
        File to write, ``.json`` or ``.json.gz``.
    """
    name = fspath(path)
    with open(name, "wb") as raw:
        # No name and no date in the header: the same trace gives the same bytes.
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if name.endswith(".gz") else None
        with io.TextIOWrapper(packed or raw, encoding="utf-8", newline="\n") as out:
            out.write('{"displayTimeUnit":"ms","traceEvents":[\n')
            separator = ""
            for event in events(trace):
                out.write(separator + json.dumps(event, separators=(",", ":"), allow_nan=False))
                separator = ",\n"
            out.write("\n]}\n")


def _threads(trace: Trace) -> dict[tuple[int, str], int]:
    """Return a number for each stream of a rank, from 1 in order of appearance."""
    threads: dict[tuple[int, str], int] = {}
    used: dict[int, int] = {}
    for rank, stream in trace.program.streams:
        used[rank] = used.get(rank, 0) + 1
        threads[rank, stream] = used[rank]
    return threads


def _counter_process(threads: dict[tuple[int, str], int]) -> int:
    return max((rank for rank, _ in threads), default=-1) + 1


def _names(trace: Trace, threads: dict[tuple[int, str], int]) -> Iterator[Event]:
    for rank in sorted({rank for rank, _ in threads}):
        yield _metadata("process_name", rank, name=f"rank {rank}")
        yield _metadata("process_sort_index", rank, sort_index=rank)
    for (rank, stream), thread in sorted(threads.items()):
        yield _metadata("thread_name", rank, thread, name=stream)
        yield _metadata("thread_sort_index", rank, thread, sort_index=thread)
    if trace.program.resources:
        counters = _counter_process(threads)
        yield _metadata("process_name", counters, name="resources")
        yield _metadata("process_sort_index", counters, sort_index=counters)


def _metadata(what: str, process: int, thread: int = 0, **values: str | int) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": values}


def _slices(trace: Trace, threads: dict[tuple[int, str], int]) -> Iterator[Event]:
    for task in trace.program.tasks:
        begin, end = (_microseconds(float(t[task.id])) for t in (trace.start, trace.end))
        yield {
            "ph": "X",
            "name": task.name,
            "cat": task.kind,
            "pid": task.rank,
            "tid": threads[task.rank, task.stream],
            "ts": begin,
            "dur": round(end - begin, 3),
            "args": {
                "task": task.id,
                "isolated_us": _microseconds(task.latency + task.duration),
                **{key: _legal(value) for key, value in task.info.items()},
                **{f"demand {key}": amount for key, amount in task.demand.items()},
            },
        }


def _legal(value: Any) -> Any:
    """Return a value JSON can hold (it has no infinities, and NumPy's numbers are not its own)."""
    if isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if number - number == 0 else str(number)


def _flows(trace: Trace, threads: dict[tuple[int, str], int]) -> Iterator[Event]:
    tasks = trace.program.tasks
    number = 0
    for task in tasks:
        for other in task.after:
            source = tasks[other]
            if (source.rank, source.stream) == (task.rank, task.stream):
                continue
            number += 1
            begin, end = (_microseconds(float(t[other])) for t in (trace.start, trace.end))
            # An arrow belongs to the slice open at its time, so it leaves just before the end.
            leaves = max(begin, round(end - 0.001, 3))
            common = {"cat": "dependency", "name": "waits for", "id": number}
            yield {
                "ph": "s", **common, "pid": source.rank,
                "tid": threads[source.rank, source.stream], "ts": leaves,
            }  # fmt: skip
            yield {
                "ph": "f", "bp": "e", **common, "pid": task.rank,
                "tid": threads[task.rank, task.stream],
                "ts": _microseconds(float(trace.start[task.id])),
            }  # fmt: skip


def _counters(trace: Trace, threads: dict[tuple[int, str], int]) -> Iterator[Event]:
    process = _counter_process(threads)
    for name, (times, fractions) in trace.utilisation().items():
        for time, fraction in zip(times.tolist(), fractions.tolist(), strict=True):
            yield {
                "ph": "C",
                "name": name,
                "pid": process,
                "tid": 0,
                "ts": _microseconds(time),
                "args": {"used": round(fraction, 6)},
            }
