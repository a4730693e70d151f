"""How time passes: a program of tasks, one rule for sharing, and an event engine.

A `Program` is data: tasks in in-order streams, their dependencies and what they take from named
resources. `run` plays it on SimPy with weighted max-min sharing; `critical_path_time` and
`serial_time` bound the answer in closed form. Names are loaded when first asked for, so importing
this package costs nothing but NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .algorithms import algorithm, algorithm_names
    from .algorithms.bounds import topology_bound, wire_bound
    from .algorithms.lowering import lower
    from .algorithms.ring_times import all_gather_time, all_reduce_time, reduce_scatter_time
    from .algorithms.routes import TopologyRoutes
    from .communicator import Collective, Communicator
    from .engine import recorded, run
    from .estimate import critical_path_time, finish_times, serial_time
    from .program import Program, Resource, Task
    from .sharing import max_min
    from .trace import Trace

_HOME = {
    "Collective": "communicator",
    "Communicator": "communicator",
    "Program": "program",
    "Resource": "program",
    "Task": "program",
    "TopologyRoutes": "algorithms.routes",
    "Trace": "trace",
    "algorithm": "algorithms",
    "algorithm_names": "algorithms",
    "all_gather_time": "algorithms.ring_times",
    "all_reduce_time": "algorithms.ring_times",
    "critical_path_time": "estimate",
    "finish_times": "estimate",
    "lower": "algorithms.lowering",
    "max_min": "sharing",
    "recorded": "engine",
    "reduce_scatter_time": "algorithms.ring_times",
    "run": "engine",
    "serial_time": "estimate",
    "topology_bound": "algorithms.bounds",
    "wire_bound": "algorithms.bounds",
}

__all__ = [
    "Collective",
    "Communicator",
    "Program",
    "Resource",
    "Task",
    "TopologyRoutes",
    "Trace",
    "algorithm",
    "algorithm_names",
    "all_gather_time",
    "all_reduce_time",
    "critical_path_time",
    "finish_times",
    "lower",
    "max_min",
    "recorded",
    "reduce_scatter_time",
    "run",
    "serial_time",
    "topology_bound",
    "wire_bound",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
