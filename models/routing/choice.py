"""What a scenario says of routing, read and checked: a trace or numbers, and where experts are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...hardware.errors import InputError, nearest
from ..groups import process_groups
from .known import AFFINITY, ROUND_ROBIN, UNIFORM, Routing
from .placement_file import load_placement
from .trace import RoutingTrace

if TYPE_CHECKING:
    from ...hardware import Cluster
    from ..architecture import Transformer
    from ..plan import Plan

TOKENS = 4096  # of a trace that is made up
WAYS = (ROUND_ROBIN, AFFINITY)


def routing_of(file: Any, model: Transformer, plan: Plan, cluster: Cluster, where: str) -> Routing:
    """Routing of a checked file section; uniform where there is none.

    Parameters
    ----------
    file : RoutingFile or None
    model : Transformer
    plan : Plan
    cluster : Cluster
    where : str
        What errors call the section.

    Raises
    ------
    InputError
        A model without experts, a trace of another one, a placement on other ranks.
    """
    groups, per_token = model.expert_groups, model.groups_per_token
    if file is None:
        return Routing(groups=groups, per_token=per_token) if groups else UNIFORM
    if not model.experts:
        raise InputError(f"{where}: {model.name} has no experts (legal: none given, or a mixture of experts)")
    trace = _trace(file, model, where)
    placement: Any = file.placement or ROUND_ROBIN
    if placement not in WAYS:
        placement = _placement(placement, model, where)
    routing = Routing(
        imbalance=file.imbalance,
        capacity=file.capacity,
        node_limit=file.node_limit,
        same_device=file.same_device,
        same_node=file.same_node,
        trace=trace,
        placement=placement,
        groups=groups,
        per_token=per_token,
        local=-(-cluster.devices_per_node // int(process_groups(cluster, plan).ep.stride)),
    )
    if file.placement not in (None, ROUND_ROBIN) and trace is None:
        raise InputError(f"{where}.placement: {file.placement!r} without routing (legal: give trace, or affinity)")
    if file.capacity is not None and file.imbalance is not None:
        raise InputError(
            f"{where}.imbalance: {file.imbalance:g} with capacity {file.capacity:g}, which evens out all ranks "
            "(legal: one of them)"
        )
    if not isinstance(placement, str) and plan.ep > 1:
        try:
            routing.device(plan.ep, 1)
        except InputError as problem:
            raise InputError(f"{where}: {problem}") from None
    return routing


def _trace(file: Any, model: Transformer, where: str) -> RoutingTrace | None:
    keys = ("skew", "affinity", "partners", "persistence")
    made_up = {key: getattr(file, key) for key in keys if getattr(file, key) is not None}
    if file.trace is None:
        if not made_up:
            if file.tokens is not None:
                raise InputError(f"{where}.tokens: {file.tokens} of no trace (legal: with skew or affinity)")
            return None
        return _generated(made_up, file.tokens or TOKENS, model, where)
    if made_up or file.tokens is not None:
        key = next(iter(made_up), "tokens")
        raise InputError(f"{where}.{key}: given beside a trace, which tells (legal: one of them)")
    from .trace_file import load_trace

    trace = load_trace(file.trace)
    layers = sum(map(model.is_moe, range(model.layers)))
    for name, found, wanted in (
        ("experts", trace.count, model.experts),
        ("layers with experts", trace.layers, layers),
        ("experts a token", trace.k, model.experts_per_token),
    ):
        if found != wanted:
            raise InputError(
                f"{where}.trace: {file.trace} has {found} {name}, {model.name} has {wanted} "
                "(legal: a trace of this model)"
            )
    return trace


def _generated(made_up: dict[str, Any], tokens: int, model: Transformer, where: str) -> RoutingTrace:
    from .generate import generate

    groups = {"groups": model.expert_groups, "limit": model.groups_per_token} if model.expert_groups else {}
    layers = sum(map(model.is_moe, range(model.layers)))
    try:
        return generate(tokens, layers, model.experts, model.experts_per_token, **made_up, **groups, seed=0)
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from None


def _placement(text: str, model: Transformer, where: str) -> Any:
    path = Path(text)
    if path.suffix != ".json":
        raise InputError(
            f"{where}.placement: {text!r}{nearest(text, list(WAYS))} "
            f"(legal: {', '.join(WAYS)}, or a .json file of place-experts)"
        )
    found = load_placement(path)
    layers = sum(map(model.is_moe, range(model.layers)))
    if found.device.shape != (layers, model.experts):
        raise InputError(
            f"{where}.placement: {text} is of {found.device.shape[0]} layers with {found.device.shape[1]} experts "
            f"(legal: {layers} with {model.experts}, as {model.name} has)"
        )
    return found.device
