"""Device memory of a training step, by use, on the fullest pipeline stage."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..architecture import STATE_BYTES, Transformer
from ..kernels import DTYPE_BYTES, NARROW, larger
from ..pipeline.orders import in_flight
from ..plan import Plan, Workload
from ..software import Software
from .stages import StageTable, kinds, layer_parameters, stage_table, vocabulary_parameters


def training_memory(
    model: Transformer, work: Workload, plan: Plan, software: Software, table: StageTable | None = None
) -> dict[str, Any]:
    """Bytes on one device by use, and their total, on whichever of first and last stage holds more.

    Parameters
    ----------
    model : Transformer
    work : Workload
        Its `micro_batch` may be an array.
    plan : Plan
        Its degrees may be arrays.
    software : Software
    table : StageTable, optional
        Stages of the plan, where they are known already.

    Returns
    -------
    dict
        weights, gradients, optimizer, activations, kv_cache, workspace, total [B].
    """
    counts = (stage_table(model, plan) if table is None else table).counts
    alone = np.where(np.equal(plan.pp, 1) | (plan.schedule == "dualpipe"), 1.0, 0.0)[()]
    embedding, head = vocabulary_parameters(model, plan, software.shards_head)
    held = [layer_parameters(model, kind.example, plan) for kind in kinds(model)]
    flying = _in_flight(plan, work)
    stages = []
    for row, ends, micro_batches in ((counts[0], (1.0, alone), flying[0]), (counts[-1], (alone, 1.0), flying[1])):
        dense = sum(n * d for n, (d, _) in zip(row, held, strict=True)) + ends[0] * embedding + ends[1] * head
        routed = sum(n * r for n, (_, r) in zip(row, held, strict=True))
        largest = larger(sum(max(d, r) if np.ndim(d + r) == 0 else np.maximum(d, r) for d, r in held[:1]), 0)
        stages.append(_stage(model, work, plan, software, row, ends[1], dense, routed, largest, micro_batches))
    first, last = stages
    fuller = np.greater(first["total"], last["total"])
    return {name: np.where(fuller, first[name], last[name])[()] for name in first}


def fits(memory: dict[str, Any], software: Software, capacity: float) -> Any:
    """Whether what is live fits; what the allocator holds beyond it, it gives back when memory is short.

    Parameters
    ----------
    memory : dict
        Of `training_memory`, or of any footprint.
    software : Software
    capacity : float
        Of the device [B].
    """
    live = (memory["total"] - software.reserve) / software.fragmentation
    return live + software.reserve <= capacity


def _stage(
    model: Transformer,
    work: Workload,
    plan: Plan,
    software: Software,
    row: Any,
    with_head: Any,
    dense: Any,
    routed: Any,
    largest: Any,
    micro_batches: Any,
) -> dict[str, Any]:
    replicas = plan.dp * plan.cp
    group = replicas if plan.shard_group is None else np.minimum(plan.shard_group, replicas)
    copies = plan.tp * replicas / (plan.ep * plan.etp)
    size = DTYPE_BYTES["bf16" if work.dtype in NARROW else work.dtype]

    def kept(stage: int, each: float) -> Any:
        if plan.zero >= stage:
            return (dense / group + routed / copies) * each
        return (dense + routed) * each

    found = {
        "weights": kept(3, size) + (2 * largest * size if plan.zero == 3 else 0.0),  # one layer ahead
        "gradients": kept(2, software.gradient_bytes) + (largest * size if plan.zero >= 2 else 0.0),
        "optimizer": kept(1, software.state_bytes) if plan.offload == "none" else 0.0 * dense,
        "activations": micro_batches * _activations(model, work, plan, software, row),
        "kv_cache": 0.0 * dense,
        "workspace": _workspace(model, work, plan, software, with_head) + _recomputed(model, work, plan, software),
    }
    live = sum(found.values())
    found["workspace"] = found["workspace"] + (software.fragmentation - 1) * live + software.reserve
    found["total"] = live * software.fragmentation + software.reserve
    return found


def _in_flight(plan: Plan, work: Workload) -> tuple[Any, Any]:
    """Micro-batches whose activations the first and the last stage hold at most, in whole stages."""
    batches = np.floor_divide(work.global_batch, plan.dp * work.micro_batch)
    chunks = 2 if plan.schedule == "dualpipe" else plan.vp
    first, last = (in_flight(plan.schedule, plan.pp, plan.vp, stage, batches) for stage in (0, plan.pp - 1))
    # A stage of dualpipe holds two model stages, of which a micro-batch passes one on this rank.
    return first / chunks, last / chunks


def layer_activations(model: Transformer, layer: int, work: Workload, plan: Plan, software: Software) -> Any:
    """Activations one layer keeps for its backward pass without recomputation [B].

    Korthikanti et al., arXiv 2205.05198, section 4, tensor by tensor, with the model's own widths. The
    inputs of products are kept in the narrow format where products have one.
    """
    size = DTYPE_BYTES["bf16" if work.dtype in NARROW else work.dtype]
    operand = min(size, DTYPE_BYTES[work.dtype])
    rows = work.micro_batch * work.sequence_length / plan.cp
    serial = model.hidden / (plan.tp if plan.sequence_parallel else 1)
    mask = 1.0 if software.dropout else 0.0
    # Inputs of two norms (the residual stream), and two dropout masks.
    found = serial * (2 * size + 2 * mask)
    # Normed inputs of the two column-parallel products, kept scattered where the sequence is.
    found = found + serial * 2 * operand
    width = model.heads * (model.head_dim + model.v_head_dim) + model.kv_heads * (model.head_dim + model.v_head_dim)
    found = found + width / plan.tp * size  # queries, keys, values, and the output of attention
    kept: Any = 0.0
    if model.is_linear(layer):
        kept = work.micro_batch * STATE_BYTES * model.state_values() / plan.tp  # of the chunks before
    elif software.attention != "flash" and plan.recompute != "selective":
        scores = model.heads / plan.tp * (work.sequence_length if model.window(layer) is None else model.window(layer))
        found = found + scores * (2 * size + mask)  # softmax, dropped-out probabilities, mask
    fan = 2 if model.gated else 1
    if model.is_moe(layer):
        # Of every copy its input and output, and what is inside the expert; the busiest rank has most of them.
        copies = model.experts_per_token * work.routing.padding * work.routing.load(plan.ep)
        routed = copies * (model.expert_width * 2 * operand + model.expert_ffn * (fan * size + operand) / plan.etp)
        routed = routed + model.bottleneck * 2 * operand  # what goes down, and the sum that comes up
        shared = model.shared_width * (fan * size + operand) / plan.etp
        local = np.where(np.equal(plan.etp, plan.tp), 1.0, 1.0 / plan.tp)[()]
        found = found + (routed + shared) * local
    else:
        found = found + model.ffn / plan.tp * (fan * size + operand)
    return rows * found + kept


def _activations(model: Transformer, work: Workload, plan: Plan, software: Software, row: Any) -> Any:
    """What the layers of a stage keep of one micro-batch [B]."""
    size = DTYPE_BYTES["bf16" if work.dtype in NARROW else work.dtype]
    rows = work.micro_batch * work.sequence_length / plan.cp
    inputs = rows * model.hidden * size / (plan.tp if plan.sequence_parallel else 1)
    again: Any = 0.0
    if plan.recompute == "full":
        again = 1.0
        if plan.recompute_layers is not None:
            again = np.minimum(1.0, plan.recompute_layers * plan.pp * plan.vp / model.layers)
    found: Any = 0.0
    for count, kind in zip(row, kinds(model), strict=True):
        whole = layer_activations(model, kind.example, work, plan, software)
        if plan.recompute == "selective" and software.selective == "products":
            whole = whole * 0.5  # every other product's output
        found = found + count * (again * inputs + (1 - again) * whole)
    return found


def _recomputed(model: Transformer, work: Workload, plan: Plan, software: Software) -> Any:
    """Activations of the one layer that is being recomputed [B]."""
    if plan.recompute != "full":
        return 0.0 * plan.tp
    return layer_activations(model, kinds(model)[-1].example, work, plan, software)


def _workspace(model: Transformer, work: Workload, plan: Plan, software: Software, with_head: Any) -> Any:
    """Logits in half precision and their fp32 copy and gradient in the loss [B]."""
    rows = work.micro_batch * work.sequence_length / plan.cp
    width = model.vocab / (plan.tp if software.shards_head else 1)
    return with_head * rows * width * software.logit_bytes
