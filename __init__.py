"""commlens: what a communication technique buys, before it is built.

>>> import commlens as cl
>>> scenario = cl.Scenario.from_dict({
...     "model": "llama-3.1-70b", "cluster": "dgx-h100", "plan": {"tp": 8},
...     "workload": {"phase": "generate", "prompt": 1024, "new_tokens": 512, "global_batch": 4}})
>>> cl.compare(scenario, ["baseline", "ladder_residual"])["speedup"].round(1).tolist()
[1.0, 1.3]
"""

from importlib import import_module as _import
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .hardware.errors import InputError
    from .models.predict import estimate, simulate
    from .models.scenario import Scenario
    from .models.study import compare, search, sweep, techniques
    from .simulator.result import Result
    from .validation import validate

_HOME = {
    "InputError": "hardware.errors",
    "Result": "simulator.result",
    "Scenario": "models.scenario",
    "compare": "models.study",
    "estimate": "models.predict",
    "place": "models.routing.place",
    "plan_sequences": "models.sequences.run",
    "search": "models.study",
    "simulate": "models.predict",
    "sweep": "models.study",
    "techniques": "models.study",
    "validate": "validation",
}

__all__ = [
    "InputError",
    "Result",
    "Scenario",
    "compare",
    "estimate",
    "place",
    "plan_sequences",
    "search",
    "simulate",
    "sweep",
    "techniques",
    "validate",
]


def __getattr__(name: str) -> _Any:
    """Load a public name when it is first used, so that importing costs nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("commlens")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
