"""Techniques from the literature, one file each, found by name.

A technique is a function ``(step, build, **options)`` that emits the program of one pass over the
model; reading it tells the mechanism of the paper. Registering is a decorator, so a new technique
is one new file in a family folder.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, get_args

from ...hardware.errors import InputError, nearest

# (step, build, **options) -> handle of the last reductions
Arranges = TypeVar("Arranges", bound=Callable[..., tuple[int, ...]])


@dataclass(frozen=True, slots=True)
class Technique:
    """A registered technique.

    Parameters
    ----------
    name, family, paper, needs : str
        `needs` says what hardware or model change it asks for.
    build : callable
        ``build(step, program, **options)``.
    closed_form : bool
        Whether a `Clock` can stand in for the program: false where tasks are made by hand.
    """

    name: str
    family: str
    paper: str
    needs: str
    build: Callable[..., tuple[int, ...]]
    closed_form: bool = True

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Keyword options with their defaults."""
        parameters = inspect.signature(self.build, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True, slots=True)
class TechniqueCall:
    """A technique with the options a scenario gives it."""

    technique: Technique
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name as a table shows it."""
        extra = ", ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.technique.name} ({extra})" if extra else self.technique.name


_REGISTRY: dict[str, Technique] = {}


def technique(
    *, family: str, paper: str, needs: str = "nothing", closed_form: bool = True
) -> Callable[[Arranges], Arranges]:
    """Register the decorated function under its own name."""

    def register(build: Arranges) -> Arranges:
        name = build.__name__
        _REGISTRY[name] = Technique(name, family, paper, needs, build, closed_form)
        return build

    return register


@cache
def registry() -> Mapping[str, Technique]:
    """All techniques by name; importing every file under the family folders registers them."""
    for family in pkgutil.iter_modules(__path__, f"{__name__}."):
        if family.ispkg:
            package = importlib.import_module(family.name)
            for module in pkgutil.iter_modules(package.__path__, f"{family.name}."):
                importlib.import_module(module.name)
    return dict(sorted(_REGISTRY.items()))


def parse_technique(what: str | Mapping[str, Any], where: str = "techniques") -> TechniqueCall:
    """Technique by name, or mapping of `name` and options, checked against its signature.

    Raises
    ------
    InputError
        Unknown name (nearest offered), unknown option, value outside its legal set.
    """
    options = {} if isinstance(what, str) else dict(what)
    name = what if isinstance(what, str) else str(options.pop("name", ""))
    known = registry()
    if name not in known:
        raise InputError(f"{where}: unknown technique {name!r} (legal: {', '.join(known)}){nearest(name, list(known))}")
    legal = known[name].options
    for key, value in options.items():
        if key not in legal:
            raise InputError(
                f"{where}: {name} has no option {key!r} (legal: {', '.join(legal) or 'none'})"
                + nearest(key, list(legal))
            )
        _check_option(where, name, key, value, legal[key].annotation)
    return TechniqueCall(known[name], options)


def _check_option(where: str, name: str, key: str, value: Any, annotation: Any) -> None:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        if value not in choices:
            raise InputError(
                f"{where}: {name}.{key}: {value!r} (legal: {', '.join(choices)}){nearest(str(value), list(choices))}"
            )
    elif annotation is int and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096):
        raise InputError(f"{where}: {name}.{key}: {value!r} (legal: a whole number from 1 to 4096)")
