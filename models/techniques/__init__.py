"""Techniques from the literature, one file each, found by name.

A technique is a function ``(step, build, **options)`` that emits the program of one pass over the
model; reading it tells the mechanism of the paper. Registering is a decorator, so a new technique
is one new file in a family folder.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeVar, get_args

from ...hardware.errors import InputError, nearest

BASELINE = "baseline"

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
        ``build(step, program, **options)``; of family sequence_parallel ``build(attend, program, after, **options)``.
    closed_form : bool
        Whether a `Clock` can stand in for the program: false where tasks are made by hand.
    replan : callable, optional
        The plan it makes of a scenario's plan.
    shares : callable, optional
        ``shares(heads, cp, **options)``: whether that many ranks can divide sequences of that many heads so; of
        arrays, where.
    """

    name: str
    family: str
    paper: str
    needs: str
    build: Callable[..., tuple[int, ...]]
    closed_form: bool = True
    replan: Callable[[Any], Any] | None = None
    shares: Callable[..., Any] | None = None

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Keyword options with their defaults."""
        parameters = inspect.signature(self.build, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True, slots=True)
class TechniqueCall:
    """A technique with the options a scenario gives it.

    Parameters
    ----------
    technique : Technique
    options : mapping
    attention : TechniqueCall, optional
        Of family sequence_parallel: what arranges attention inside this one.
    """

    technique: Technique
    options: Mapping[str, Any] = field(default_factory=dict)
    attention: TechniqueCall | None = None

    @property
    def label(self) -> str:
        """Name as a table shows it."""
        extra = ", ".join(f"{k}={v}" for k, v in self.options.items())
        own = f"{self.technique.name} ({extra})" if extra else self.technique.name
        if self.attention is None:
            return own
        return self.attention.label if self.technique.name == BASELINE else f"{own} + {self.attention.label}"

    @property
    def closed_form(self) -> bool:
        """Whether a `Clock` can stand in for the program."""
        return self.technique.closed_form and (self.attention is None or self.attention.technique.closed_form)

    def shares(self, heads: Any, cp: Any) -> Any:
        """Whether `cp` ranks can divide sequences of `heads` heads as this asks; of arrays, where."""
        inner = self.attention
        if inner is None or inner.technique.shares is None:
            return True
        return inner.technique.shares(heads, cp, **inner.options)

    def emit(self, step: Any, build: Any) -> tuple[int, ...]:
        """A pass as the technique arranges it; the handle of its end."""
        if self.attention is not None:
            build.scheme = partial(self.attention.technique.build, **self.attention.options)
        return self.technique.build(step, build, **self.options)


_REGISTRY: dict[str, Technique] = {}


def technique(
    *,
    family: str,
    paper: str,
    needs: str = "nothing",
    closed_form: bool = True,
    replan: Callable[[Any], Any] | None = None,
    shares: Callable[..., Any] | None = None,
) -> Callable[[Arranges], Arranges]:
    """Register the decorated function under its own name."""

    def register(build: Arranges) -> Arranges:
        name = build.__name__
        _REGISTRY[name] = Technique(name, family, paper, needs, build, closed_form, replan, shares)
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


def combined(calls: Sequence[TechniqueCall]) -> TechniqueCall:
    """One call for all techniques of a scenario; the baseline where no family arranges the layers.

    Raises
    ------
    InputError
        When several techniques of one family are named: they replace each other.
    """
    found: dict[str, TechniqueCall] = {}
    for call in calls:
        family = call.technique.family
        if family in found:
            names = f"{found[family].technique.name}, {call.technique.name}"
            raise InputError(f"techniques: {names} exclude each other (legal: one of family {family})")
        found[family] = call
    layers = found.get("tensor_parallel") or TechniqueCall(registry()[BASELINE])
    return replace(layers, attention=found.get("sequence_parallel"))


def _check_option(where: str, name: str, key: str, value: Any, annotation: Any) -> None:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        if value not in choices:
            raise InputError(
                f"{where}: {name}.{key}: {value!r} (legal: {', '.join(choices)}){nearest(str(value), list(choices))}"
            )
    elif annotation is int and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096):
        raise InputError(f"{where}: {name}.{key}: {value!r} (legal: a whole number from 1 to 4096)")
