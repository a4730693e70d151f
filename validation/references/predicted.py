"""What programs say each rank sends, for the shapes that references are executed on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import singledispatch
from typing import TYPE_CHECKING, Any, NamedTuple

from .shapes import ELEMENT, Attention, Mixture, Network

if TYPE_CHECKING:
    from ...hardware import Cluster
    from ...models.kernels import Kernels
    from ...models.techniques import TechniqueCall
    from ...simulator import Program

Counts = dict[str, dict[str, float]]
"""Bytes [B], or messages, by direction and kind."""


class Sent(NamedTuple):
    """What every rank sends.

    Parameters
    ----------
    sent, messages : list of Counts
        By rank.
    """

    sent: list[Counts]
    messages: list[Counts]


DIRECTIONS = ("forward", "backward")
CLUSTER = "dgx-h100"  # bytes do not depend on it


@singledispatch
def predicted(shape: Any, call: TechniqueCall, ranks: int) -> Sent:
    """Bytes of every rank; of all alike where the program has one rank for all.

    Parameters
    ----------
    shape : Network, Attention or Mixture
    call : TechniqueCall
    ranks : int
    """
    raise TypeError(f"no program is made of a {type(shape).__name__}")


@predicted.register(Network)
def _network(shape: Network, call: TechniqueCall, ranks: int) -> Sent:
    """Layers of a GPT-like model over tensor-parallel ranks."""
    from ...models.blocks import Tokens
    from ...models.build import Builder
    from ...models.groups import process_groups
    from ...models.huggingface import read_config
    from ...models.layers import Layers
    from ...models.plan import Plan
    from ...models.step import backward_step, forward_step
    from ...models.techniques import combined

    cluster = _cluster(ranks)
    model = read_config(
        {
            "model_type": "llama",
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.ffn,
        }
    )
    plan = Plan(tp=ranks, etp=ranks, sequence_parallel=shape.sequence_parallel)
    if call.technique.replan is not None:
        plan = call.technique.replan(Plan(cp=ranks))
    kernels = _kernels(cluster)
    layers = Layers(model, kernels, plan.division, training=True)
    forward = forward_step("forward", layers, Tokens(shape.batch, shape.tokens, shape.tokens), range(shape.layers))
    steps = (forward, backward_step(layers, forward, "none"))
    programs = []
    for step in steps:
        build = Builder(step.name, cluster, kernels, ranks, False, process_groups(cluster, plan))
        combined([call]).emit(step, build)
        programs.append(build.program)
    return by_rank(programs, ranks)


@predicted.register(Attention)
def _attention(shape: Attention, call: TechniqueCall, ranks: int) -> Sent:
    """Attention over context-parallel ranks, each of them played; a linear layer before where there are hybrids."""
    from ...models.attention import beside
    from ...models.blocks import Attend
    from ...models.groups import process_groups
    from ...models.plan import Plan
    from ...models.routed import Routed

    cluster = _cluster(ranks)
    core = Attend(
        shape.batch,
        shape.tokens,
        min(shape.tokens * ranks, shape.window or shape.tokens * ranks),
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.value_dim,
        shape.causal,
        whole=shape.tokens * ranks,
    )
    cores = [replace(core, linear=linear) for linear in shape.linear]
    arrange = call.technique.build if call.technique.slot == "attention" else beside
    programs = []
    for direction in DIRECTIONS:
        build = Routed(direction, cluster, _kernels(cluster), process_groups(cluster, Plan(cp=ranks)))
        done = build.start
        for one in cores:
            done = arrange(replace(one, direction=direction), build, done, **call.options)
        programs.append(build.program)
    return by_rank(programs, ranks)


@predicted.register(Mixture)
def _mixture(shape: Mixture, call: TechniqueCall, ranks: int) -> Sent:
    """Layers of a GPT-like mixture over expert-parallel ranks, one for all; its routing is the same table."""
    from ...models.blocks import Tokens
    from ...models.build import Builder
    from ...models.groups import process_groups
    from ...models.huggingface import read_config
    from ...models.layers import Layers
    from ...models.plan import Plan
    from ...models.routing.known import Routing
    from ...models.routing.trace import RoutingTrace
    from ...models.step import backward_step, forward_step
    from ...models.techniques import combined

    cluster = _cluster(ranks, shape.nodes)
    model = read_config(
        {
            "model_type": "gpt2_moe",
            "n_layer": shape.layers,
            "n_embd": shape.hidden,
            "n_head": shape.heads * shape.tp,
            "num_local_experts": shape.experts,
            "num_experts_per_tok": shape.top_k,
            "moe_intermediate_size": shape.ffn,
        }
    )
    if call.technique.slot == "model":
        model = call.technique.build(model, **call.options)
    if shape.shared:
        model = replace(model, shared_experts=1, shared_ffn=shape.shared)
    table = shape.table(ranks)
    trace = RoutingTrace(table.reshape(-1, *table.shape[2:]).astype("int32"), shape.experts)
    tp, etp = shape.tp, shape.etp
    plan = Plan(tp=tp, dp=ranks // tp, ep=ranks // etp, etp=etp, sequence_parallel=tp > 1 and shape.scattered)
    kernels, routing = _kernels(cluster), Routing(trace=trace, capacity=shape.capacity or None)
    layers = Layers(model, kernels, plan.division, training=shape.trained, routing=routing)
    # Of all tensor-parallel ranks: a batch of single tokens, or two sequences.
    own, half = shape.tokens * tp, shape.tokens * tp // 2
    tokens = Tokens(own, 1, shape.context + 1) if shape.context else Tokens(2, half, half)
    steps = [forward_step("forward", layers, tokens, range(shape.layers))]
    if shape.trained:
        steps.append(backward_step(layers, steps[0], "none"))
    programs = []
    for step in steps:
        # What attention adds up, references of tensor parallelism do.
        mixtures = tuple(block for block in step.blocks if tp == 1 or block.name.startswith("mlp"))
        build = Builder(step.name, cluster, kernels, tp, groups=process_groups(cluster, plan))
        combined([call]).emit(replace(step, blocks=mixtures), build)
        programs.append(build.program)
    return by_rank(programs, ranks)


def by_rank(programs: Iterable[Program], ranks: int) -> Sent:
    """Bytes of every rank in a forward and a backward program.

    Parameters
    ----------
    programs : iterable of Program
        Of one direction each, forward first.
    ranks : int
        Who all of them stand for, where they have tasks of one rank alone.
    """
    sent: list[Counts] = [{} for _ in range(ranks)]
    messages: list[Counts] = [{} for _ in range(ranks)]
    for direction, program in zip(DIRECTIONS, programs, strict=False):
        folded = all(task.rank == 0 for task in program.tasks)  # one rank stands for all
        for task in program.tasks:
            if "communication" not in task.info:
                continue
            kind, size = str(task.info["communication"]), float(task.info["communication_bytes"])
            for rank in range(ranks) if folded else (task.rank,):
                mine, count = sent[rank].setdefault(direction, {}), messages[rank].setdefault(direction, {})
                mine[kind], count[kind] = mine.get(kind, 0.0) + size, count.get(kind, 0) + 1
    whole = [{way: {kind: _whole(n) for kind, n in kinds.items()} for way, kinds in one.items()} for one in sent]
    return Sent(whole, messages)


def _whole(size: float) -> float:
    """A whole number but for rounding; what is none stays, and equals nothing executed."""
    return round(size) if abs(size - round(size)) < 1e-6 else size


def _cluster(ranks: int, nodes: int = 1) -> Cluster:
    from ...hardware import load_cluster

    return load_cluster({"preset": CLUSTER, "devices_per_node": ranks // nodes, "nodes": nodes})


def _kernels(cluster: Cluster) -> Kernels:
    """Kernels whose activations have as many bytes as those of the references."""
    from ...models.kernels import Kernels
    from ...models.software import load_software

    made = Kernels(cluster.device, load_software("ideal"), "fp32", training=True)
    made.size = float(ELEMENT)
    return made
