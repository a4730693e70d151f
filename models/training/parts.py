"""Everything a training step is made of, costed: passes through layers, messages, updates.

For many plans at once every number is an array with one entry per plan. Plans that divide a layer
alike share its composition, so a million plans cost what their few hundred unlike layers cost.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...hardware import Cluster
from ..architecture import Transformer
from ..blocks import Tokens
from ..clock import Clock
from ..groups import Group, process_groups
from ..kernels import Kernels
from ..pipeline.orders import SPLIT as SPLIT
from ..plan import Plan, Workload
from ..techniques import TechniqueCall
from .compose import Composer, MakeClock, Passes, Play
from .cost import Cost, Ports
from .stages import Kind, kinds, layer_parameters, vocabulary_parameters
from .weights import Weights, message


@dataclass(frozen=True, slots=True)
class Parts:
    """Costs on one rank, of one micro-batch unless said otherwise.

    Parameters
    ----------
    kinds : tuple of Kind
        Kinds of layer.
    layers : tuple of Passes
        Of one layer of each kind.
    repeated : tuple of Passes
        The same for the layers of a chunk that are recomputed; equal to `layers` unless only some are.
    embedding, head : Passes
    gather, reduce : tuple of Cost
        Weights of one layer of each kind gathered from, and its gradients added up over, the ranks that
        hold them: for every micro-batch with zero 3, else once a step.
    gather_ends, reduce_ends : tuple of Cost
        The same of the (embedding, head).
    transfer : Cost
        An activation, or its gradient, on its way to the next stage.
    update : tuple of Cost
        The optimizer's work, once a step, on one layer of each kind.
    update_ends : tuple of Cost
        The same on the (embedding, head).
    sync : Cost
        Gradients of a tied embedding added up over the two stages that hold it, once a step.
    ports : Ports
        What a rank can send.
    """

    kinds: tuple[Kind, ...]
    layers: tuple[Passes, ...]
    repeated: tuple[Passes, ...]
    embedding: Passes
    head: Passes
    gather: tuple[Cost, ...]
    reduce: tuple[Cost, ...]
    gather_ends: tuple[Cost, Cost]
    reduce_ends: tuple[Cost, Cost]
    transfer: Cost
    update: tuple[Cost, ...]
    update_ends: tuple[Cost, Cost]
    sync: Cost
    ports: Ports


def parts_of(
    model: Transformer,
    cluster: Cluster,
    kernels: Kernels,
    work: Workload,
    plan: Plan,
    technique: TechniqueCall,
    play: Play | None = None,
) -> Parts:
    """Cost everything a step is made of.

    Parameters
    ----------
    model : Transformer
    cluster : Cluster
    kernels : Kernels
    work : Workload
        Its `micro_batch` may be an array.
    plan : Plan
        Its degrees may be arrays.
    technique : TechniqueCall
    play : callable, optional
        Plays the programs of single layers; None takes the closed form.
    """
    return Parts(
        kinds=kinds(model),
        **passes_of(model, cluster, kernels, work, plan, technique, play),
        **weights_of(model, cluster, kernels, plan),
        transfer=transfer_of(model, cluster, kernels, work, plan),
        ports=ports_of(cluster),
    )


def ports_of(cluster: Cluster) -> Ports:
    """What a rank of a cluster can send."""
    return Ports(cluster.link.bandwidth, 0.0 if cluster.nic is None else cluster.nic.bandwidth)


def weights_of(model: Transformer, cluster: Cluster, kernels: Kernels, plan: Plan) -> dict[str, Any]:
    """What is done about weights and gradients outside the passes, by field of `Parts`.

    Parameters
    ----------
    model : Transformer
    cluster : Cluster
    kernels : Kernels
    plan : Plan
        Its degrees may be arrays.
    """
    held = [layer_parameters(model, kind.example, plan) for kind in kinds(model)]
    first, last = vocabulary_parameters(model, plan, kernels.software.shards_head)
    weights = Weights(cluster, kernels, plan)
    sync = Cost()
    if model.tied_embeddings:
        stride = process_groups(cluster, plan).pipeline_stride
        pair = Group(cluster, np.where(np.greater(plan.pp, 1), 2, 1)[()], stride * (plan.pp - 1) + (plan.pp == 1))
        sync = message(pair, kernels, "all_reduce", first * kernels.software.message_bytes)
    return {
        "gather": tuple(weights.gathered(dense, routed) for dense, routed in held),
        "reduce": tuple(weights.reduced(dense, routed) for dense, routed in held),
        "gather_ends": (weights.gathered(first), weights.gathered(last)),
        "reduce_ends": (weights.reduced(first), weights.reduced(last)),
        "update": tuple(weights.updated(dense, routed) for dense, routed in held),
        "update_ends": (weights.updated(first), weights.updated(last)),
        "sync": sync,
    }


def transfer_of(model: Transformer, cluster: Cluster, kernels: Kernels, work: Workload, plan: Plan) -> Cost:
    """An activation sent to the next stage.

    Tensor-parallel ranks hold equal activations, so each sends a part and the receivers gather them
    (scatter-gather, arXiv 2104.04473, section 4.1); with sequence parallelism each has only its part.
    """
    groups = process_groups(cluster, plan)
    across = np.greater(plan.pp, 1)
    size = np.where(across, work.micro_batch * (work.sequence_length / plan.cp) * model.hidden * kernels.size, 0.0)[()]
    pair = Group(cluster, np.where(across, 2, 1)[()], groups.pipeline_stride)
    found = message(pair, kernels, "send_recv", size / plan.tp)
    sent = size / plan.tp
    found = replace(
        found,
        link_bytes=sent,
        sent={"send_recv": sent},
        sm_time=0.0 * found.time,
        nic_bytes=np.where(np.greater_equal(groups.pipeline_stride, cluster.devices_per_node), sent, 0.0)[()],
    )
    return found if plan.sequence_parallel else found + message(groups.tp, kernels, "all_gather", size)


def passes_of(
    model: Transformer,
    cluster: Cluster,
    kernels: Kernels,
    work: Workload,
    plan: Plan,
    technique: TechniqueCall,
    play: Play | None = None,
    known: dict[tuple[Any, ...], Any] | None = None,
    clock: MakeClock = Clock,
) -> dict[str, Any]:
    """Layers, recomputed layers, embedding and head, by field of `Parts`.

    Of many plans unlike ones are composed, and spread over the others.

    Parameters
    ----------
    model, cluster, kernels, work, plan, technique, play
        As of `parts_of`.
    known : dict, optional
        Of `Composer`: filled with what is composed, and asked before.
    clock : callable
        Of `Composer`.
    """
    groups = process_groups(cluster, plan)
    strides = (groups.tp.stride, groups.cp.stride, np.where(np.greater(plan.ep, 1), groups.ep.stride, 0))
    columns = (plan.tp, plan.cp, plan.ep, plan.etp, *strides, work.micro_batch)
    if all(np.ndim(column) == 0 for column in columns):
        return _composed(model, cluster, kernels, work, plan, technique, play, known, clock)
    rows = np.stack([np.asarray(column) for column in np.broadcast_arrays(*columns)], axis=-1)
    _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    place = place.ravel()

    def some(value: Any) -> Any:
        return np.broadcast_to(value, rows.shape[:1])[first] if isinstance(value, np.ndarray) else value

    unlike = replace(plan, **{item.name: some(getattr(plan, item.name)) for item in fields(plan)})
    micro = np.broadcast_to(work.micro_batch, rows.shape[:1])[first]
    work = replace(work, micro_batch=micro)
    found = _composed(model, cluster, kernels, work, unlike, technique, play, known, clock)

    def spread(number: Any) -> Any:
        return np.broadcast_to(number, first.shape)[place] if np.ndim(number) else number

    def all_spread(passes: Passes) -> Passes:
        return Passes(*(cost.map(spread) for cost in (passes.forward, passes.backward, passes.weight)))

    layers = tuple(map(all_spread, found["layers"]))
    partly = found["repeated"] is not found["layers"]
    return {
        "layers": layers,
        "repeated": tuple(map(all_spread, found["repeated"])) if partly else layers,
        "embedding": all_spread(found["embedding"]),
        "head": all_spread(found["head"]),
    }


def _composed(
    model: Transformer,
    cluster: Cluster,
    kernels: Kernels,
    work: Workload,
    plan: Plan,
    technique: TechniqueCall,
    play: Play | None,
    known: dict[tuple[Any, ...], Any] | None,
    clock: MakeClock,
) -> dict[str, Any]:
    tokens = Tokens(work.micro_batch, work.sequence_length / plan.cp, work.sequence_length)
    shared: dict[tuple[Any, ...], Any] = {} if known is None else known
    groups = shared.setdefault(("groups",), process_groups(cluster, plan))
    composer = Composer(model, cluster, kernels, groups, plan, tokens, technique, work.routing, play, shared, clock)
    split = plan.schedule in SPLIT
    host = kernels.software.host_per_kernel
    partly = plan.recompute == "full" and plan.recompute_layers is not None

    def paced(passes: Passes) -> Passes:
        """The host launches forward and backward kernels in turn: together they take at least that."""
        everything = passes.forward + passes.backward + passes.weight
        factor = np.maximum(1.0, everything.launches * host / np.maximum(everything.time, 1e-12))
        return Passes(*(cost.slowed(factor) for cost in (passes.forward, passes.backward, passes.weight)))

    def each(recompute: str) -> tuple[Passes, ...]:
        return tuple(paced(composer.layer(kind.example, recompute, split)) for kind in kinds(model))

    layers = each("none" if partly else plan.recompute)
    repeated = each("full") if partly else layers
    ends = {"embedding": paced(composer.embedding()), "head": paced(composer.head())}
    return {"layers": layers, "repeated": repeated, **ends}
