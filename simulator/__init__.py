"""How time passes: a program of tasks, one rule for sharing, and an event engine.

A `Program` is data: tasks in in-order streams, their dependencies and what they take from named
resources. `run` plays it on SimPy with weighted max-min sharing; `critical_path_time` and
`serial_time` bound the answer in closed form. Names are loaded when first asked for, so importing
this package costs nothing but NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collectives import (
        all_gather_time,
        all_reduce_time,
        bytes_sent,
        reduce_scatter_time,
        ring_all_gather,
        ring_all_reduce,
        ring_reduce_scatter,
    )
    from .engine import recorded, run
    from .estimate import critical_path_time, finish_times, serial_time
    from .program import Program, Resource, Task
    from .sharing import max_min
    from .trace import Trace

_HOME = {
    "Program": "program",
    "Resource": "program",
    "Task": "program",
    "Trace": "trace",
    "all_gather_time": "collectives",
    "all_reduce_time": "collectives",
    "bytes_sent": "collectives",
    "critical_path_time": "estimate",
    "finish_times": "estimate",
    "max_min": "sharing",
    "recorded": "engine",
    "reduce_scatter_time": "collectives",
    "ring_all_gather": "collectives",
    "ring_all_reduce": "collectives",
    "ring_reduce_scatter": "collectives",
    "run": "engine",
    "serial_time": "estimate",
}

__all__ = [
    "Program",
    "Resource",
    "Task",
    "Trace",
    "all_gather_time",
    "all_reduce_time",
    "bytes_sent",
    "critical_path_time",
    "finish_times",
    "max_min",
    "recorded",
    "reduce_scatter_time",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_reduce_scatter",
    "run",
    "serial_time",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
