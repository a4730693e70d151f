"""Collective algorithms, one file each: what is sent when, and what it costs in closed form.

An `Algorithm` says for a kind of collective and a number of ranks which blocks go from whom to whom
in which round. The rest follows from that: `schedule.execute` plays it symbolically to see that every
rank ends with the right data, `lowering.lower` turns it into tasks on a fabric, and `Algorithm.time`
is the same in closed form for scalars or arrays. A new algorithm is a new file here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ...hardware.errors import InputError, nearest
from .schedule import KINDS, Algorithm, Send

_KNOWN: dict[str, Algorithm] = {}

__all__ = ["KINDS", "Algorithm", "Send", "algorithm", "algorithm_names", "register"]


def register(cls: Callable[[], Algorithm]) -> Callable[[], Algorithm]:
    """Class decorator: the algorithm is known by its `name` from now on."""
    made = cls()
    if made.name in _KNOWN:
        raise ValueError(f"algorithm {made.name!r} is there already")
    _KNOWN[made.name] = made
    return cls


@cache  # listing the folder takes longer than most of what the algorithms are asked
def _load() -> dict[str, Algorithm]:
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return _KNOWN


def algorithm_names(kind: str | None = None) -> list[str]:
    """Names of the algorithms, or of those that run a kind of collective."""
    return sorted(name for name, known in _load().items() if kind is None or kind in known.kinds)


def algorithm(name: str) -> Algorithm:
    """Algorithm of a name.

    Raises
    ------
    InputError
        When there is none.
    """
    known = _load()
    if name not in known:
        raise InputError(f"algorithm: {name!r} (legal: {', '.join(sorted(known))}){nearest(name, sorted(known))}")
    return known[name]
