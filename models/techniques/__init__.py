"""Techniques from the literature, one file each, found by name.

A technique is a function; reading it tells the mechanism of the paper. What it is given depends on what it
arranges: the blocks of a pass, ``(step, build, **options)``; attention over divided sequences, ``(attend, build,
after, **options)``; the way of tokens to experts and back, ``(experts, build, **options)``; or the model itself,
``(model, **options)``. A scenario has at most one technique of each kind. Registering is a decorator, so a new
technique is one new file in a family folder.
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
SLOTS = {"tensor_parallel": "layers", "sequence_parallel": "attention", "moe": "experts"}
"""What techniques of a family arrange, unless they say otherwise."""

WHAT = {"layers": "layers", "attention": "attention", "experts": "the way to experts", "model": "the model"}

# Handle of the last reductions, work of a layer with experts, or a model.
Arranges = TypeVar("Arranges", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Technique:
    """A registered technique.

    Parameters
    ----------
    name, family, paper, needs : str
        `needs` says what hardware or model change it asks for.
    build : callable
        See the module.
    slot : str
        What it arranges: layers | attention | experts | model.
    closed_form : bool
        Whether a `Clock` can stand in for the program: false where tasks are made by hand.
    apart : bool
        Whether its order of work depends on which collectives there are, so that of many plans only those with
        the same ones can be timed together.
    replan : callable, optional
        The plan it makes of a scenario's plan.
    shares : callable, optional
        ``shares(heads, cp, **options)``: whether that many ranks can divide sequences of that many heads so; of
        arrays, where.
    unfit : callable, optional
        ``unfit(model, workload, plan)``: why it cannot be used there, and what is legal; empty where it can.
    finish : callable, optional
        ``finish(step, build, **options)``: work that ends a pass.
    holds : callable, optional
        ``holds(memory, plan)``: memory of a device by use, as it changes it.
    warns : callable, optional
        ``warns(model, plan, device)``: what to know before its result is used; empty for nothing.
    gathers_tokens : bool
        Whether a device has as many tokens in all of its work as its experts attract.
    """

    name: str
    family: str
    paper: str
    needs: str
    build: Callable[..., Any]
    slot: str
    closed_form: bool = True
    apart: bool = False
    replan: Callable[[Any], Any] | None = None
    shares: Callable[..., Any] | None = None
    unfit: Callable[[Any, Any, Any], str] | None = None
    finish: Callable[..., Any] | None = None
    holds: Callable[[dict[str, float], Any], dict[str, float]] | None = None
    warns: Callable[[Any, Any, Any], str] | None = None
    gathers_tokens: bool = False

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
    inner : Mapping
        What arranges attention, experts and the model inside this one, by slot.
    """

    technique: Technique
    options: Mapping[str, Any] = field(default_factory=dict)
    inner: Mapping[str, TechniqueCall] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name as a table shows it."""
        extra = ", ".join(f"{k}={v}" for k, v in self.options.items())
        own = f"{self.technique.name} ({extra})" if extra else self.technique.name
        parts = [call.label for call in self.inner.values()]
        return " + ".join(parts if parts and self.technique.name == BASELINE else [own, *parts])

    @property
    def every(self) -> tuple[TechniqueCall, ...]:
        """The call and those inside it."""
        return (self, *self.inner.values())

    @property
    def closed_form(self) -> bool:
        """Whether a `Clock` can stand in for the program."""
        return all(call.technique.closed_form for call in self.every)

    def shares(self, heads: Any, cp: Any) -> Any:
        """Whether `cp` ranks can divide sequences of `heads` heads as this asks; of arrays, where."""
        inner = self.inner.get("attention")
        if inner is None or inner.technique.shares is None:
            return True
        return inner.technique.shares(heads, cp, **inner.options)

    def emit(self, step: Any, build: Any) -> tuple[int, ...]:
        """A pass as the technique arranges it; the handle of its end."""
        attention, experts = self.inner.get("attention"), self.inner.get("experts")
        if attention is not None:
            build.scheme = partial(attention.technique.build, **attention.options)
        if experts is not None:
            build.reach = partial(experts.technique.build, **experts.options)
        done: tuple[int, ...] = self.technique.build(step, build, **self.options)
        for call in self.every:
            if call.technique.finish is not None:
                done = build.compute(call.technique.finish(step, build, **call.options), after=done)
        return done


_REGISTRY: dict[str, Technique] = {}


def technique(
    *,
    family: str,
    paper: str,
    needs: str = "nothing",
    **traits: Any,
) -> Callable[[Arranges], Arranges]:
    """Register the decorated function under its own name; `traits` are further fields of `Technique`."""

    def register(build: Arranges) -> Arranges:
        traits.setdefault("slot", SLOTS[family])
        _REGISTRY[build.__name__] = Technique(build.__name__, family, paper, needs, build, **traits)
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
        When several techniques that arrange the same are named: they replace each other.
    """
    found: dict[str, TechniqueCall] = {}
    for call in calls:
        slot = call.technique.slot
        if slot in found:
            names = f"{found[slot].technique.name}, {call.technique.name}"
            raise InputError(f"techniques: {names} exclude each other (legal: one that arranges {WHAT[slot]})")
        found[slot] = call
    layers = found.pop("layers", None) or TechniqueCall(registry()[BASELINE])
    return replace(layers, inner={slot: found[slot] for slot in WHAT if slot in found})


def _check_option(where: str, name: str, key: str, value: Any, annotation: Any) -> None:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        if value not in choices:
            raise InputError(
                f"{where}: {name}.{key}: {value!r} (legal: {', '.join(choices)}){nearest(str(value), list(choices))}"
            )
    elif annotation is float and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1):
        raise InputError(f"{where}: {name}.{key}: {value!r} (legal: a share above 0, up to 1)")
    elif annotation is int and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096):
        raise InputError(f"{where}: {name}.{key}: {value!r} (legal: a whole number from 1 to 4096)")
