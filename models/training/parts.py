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
from ..groups import Group, process_groups
from ..kernels import Kernels
from ..plan import Plan, Workload
from ..techniques import TechniqueCall
from .compose import Composer, Passes, Play
from .cost import Cost, Ports
from .stages import Kind, kinds, layer_parameters, vocabulary_parameters

SPLIT = ("zero-bubble", "dualpipe")  # schedules that run weight gradients apart


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
    layers, repeated, embedding, head = _passes(model, cluster, kernels, work, plan, technique, play)
    every = kinds(model)
    held = [layer_parameters(model, kind.example, plan) for kind in every]
    ends = vocabulary_parameters(model, plan, kernels.software.shards_head)
    weights = _Weights(cluster, kernels, plan)
    groups = process_groups(cluster, plan)
    first, last = ends
    sync = Cost()
    if model.tied_embeddings:
        pair = Group(
            cluster, np.where(np.greater(plan.pp, 1), 2, 1)[()], groups.pipeline_stride * (plan.pp - 1) + (plan.pp == 1)
        )
        sync = message(pair, kernels, "all_reduce", first * kernels.software.message_bytes)
    return Parts(
        every,
        layers,
        repeated,
        embedding,
        head,
        tuple(weights.gathered(dense, routed) for dense, routed in held),
        tuple(weights.reduced(dense, routed) for dense, routed in held),
        (weights.gathered(first), weights.gathered(last)),
        (weights.reduced(first), weights.reduced(last)),
        _transfer(model, cluster, kernels, work, plan),
        tuple(weights.updated(dense, routed) for dense, routed in held),
        (weights.updated(first), weights.updated(last)),
        sync,
        Ports(cluster.link.bandwidth, 0.0 if cluster.nic is None else cluster.nic.bandwidth),
    )


def message(group: Group, kernels: Kernels, kind: str, size: Any) -> Cost:
    """A collective as a cost: its bytes by the definition of its kind, its time by the library's choice.

    Parameters
    ----------
    group : Group
    kernels : Kernels
    kind : str
    size : float or array
        Bytes, by the convention of the kind [B].
    """
    time = group.times(kind, size)
    sent = size * (group.size - 1) / group.size * (2 if kind == "all_reduce" else 1)
    crossing = group.crossing(kind, sent)
    share = min(1.0, group.cluster.link.channels / kernels.device.compute_units)
    return Cost(
        time=time,
        communication=time,
        memory_bytes=2 * sent,
        link_bytes=sent - crossing,
        nic_bytes=crossing,
        sm_time=time * share,
        sent={kind: sent},
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    """What ranks that hold the same weights do about them."""

    cluster: Cluster
    kernels: Kernels
    plan: Plan

    def _divided(self, stage: int, count: Any) -> Any:
        return count if self.plan.zero >= stage else 1

    def gathered(self, dense: Any, routed: Any = 0.0) -> Cost:
        """Weights gathered from the ranks that hold a part of them each (zero 1 and more)."""
        if not self.plan.zero:
            return Cost()
        groups, size = process_groups(self.cluster, self.plan), self.kernels.size
        found = message(groups.shard, self.kernels, "all_gather", dense * size)
        if np.any(routed):
            found += message(groups.expert_dp, self.kernels, "all_gather", routed * size)
        return found

    def reduced(self, dense: Any, routed: Any = 0.0) -> Cost:
        """Gradients added up: scattered over a sharding group, then over the groups that hold equal shards."""
        groups, size = process_groups(self.cluster, self.plan), self.kernels.software.message_bytes
        kind = "reduce_scatter" if self.plan.zero else "all_reduce"
        found = message(groups.shard, self.kernels, kind, dense * size)
        if self.plan.shard_group is not None:
            part = dense * size / self._divided(1, groups.shard.size)
            found += message(groups.replicas, self.kernels, "all_reduce", part)
        if np.any(routed):
            found += message(groups.expert_dp, self.kernels, kind, routed * size)
        return found

    def updated(self, dense: Any, routed: Any = 0.0) -> Cost:
        """Clipping and updating a rank's share of the parameters, on the device or on the host."""
        groups, software = process_groups(self.cluster, self.plan), self.kernels.software
        count = dense / self._divided(1, groups.shard.size) + routed / self._divided(1, groups.expert_dp.size)
        traffic = count * software.update_bytes
        time = traffic / self.kernels.bandwidth
        if self.plan.offload == "none":
            return Cost(time=time, compute=time, memory_bytes=traffic, sm_time=time, launches=0.0)
        moved = count * (software.gradient_bytes + self.kernels.size)  # gradients down, weights up
        away = moved / software.host_link + count * software.update_bytes / software.host_memory
        return Cost(time=away, memory_bytes=moved, sent={"host": moved})


def _transfer(model: Transformer, cluster: Cluster, kernels: Kernels, work: Workload, plan: Plan) -> Cost:
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


def _passes(
    model: Transformer,
    cluster: Cluster,
    kernels: Kernels,
    work: Workload,
    plan: Plan,
    technique: TechniqueCall,
    play: Play | None,
) -> tuple[tuple[Passes, ...], tuple[Passes, ...], Passes, Passes]:
    """Layers, recomputed layers, embedding and head; unlike ones only, then spread over the plans."""
    groups = process_groups(cluster, plan)
    strides = (groups.tp.stride, groups.cp.stride, np.where(np.greater(plan.ep, 1), groups.ep.stride, 0))
    columns = (plan.tp, plan.cp, plan.ep, plan.etp, *strides, work.micro_batch)
    if all(np.ndim(column) == 0 for column in columns):
        return _composed(model, cluster, kernels, work, plan, technique, play)
    rows = np.stack([np.asarray(column) for column in np.broadcast_arrays(*columns)], axis=-1)
    _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    place = place.ravel()

    def some(value: Any) -> Any:
        return np.broadcast_to(value, rows.shape[:1])[first] if isinstance(value, np.ndarray) else value

    unlike = replace(plan, **{item.name: some(getattr(plan, item.name)) for item in fields(plan)})
    micro = np.broadcast_to(work.micro_batch, rows.shape[:1])[first]
    found = _composed(model, cluster, kernels, replace(work, micro_batch=micro), unlike, technique, play)

    def spread(passes: Passes) -> Passes:
        costs = (passes.forward, passes.backward, passes.weight)
        return Passes(*(cost.map(lambda number: np.broadcast_to(number, first.shape)[place]) for cost in costs))

    layers, repeated, embedding, head = found
    return tuple(map(spread, layers)), tuple(map(spread, repeated)), spread(embedding), spread(head)


def _composed(
    model: Transformer,
    cluster: Cluster,
    kernels: Kernels,
    work: Workload,
    plan: Plan,
    technique: TechniqueCall,
    play: Play | None,
) -> tuple[tuple[Passes, ...], tuple[Passes, ...], Passes, Passes]:
    tokens = Tokens(work.micro_batch, work.sequence_length / plan.cp, work.sequence_length)
    composer = Composer(model, cluster, kernels, process_groups(cluster, plan), plan, tokens, technique, play)
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
    return layers, repeated, paced(composer.embedding()), paced(composer.head(split))
