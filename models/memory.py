"""Device-memory footprint of a scenario."""

from __future__ import annotations

from .architecture import Transformer
from .kernels import DTYPE_BYTES
from .plan import Plan, Workload
from .software import Software
from .training.memory import training_memory


def footprint(model: Transformer, work: Workload, plan: Plan, software: Software) -> dict[str, float]:
    """Bytes on one device by use, and their total.

    Parameters
    ----------
    model : Transformer
    work : Workload
    plan : Plan
    software : Software

    Returns
    -------
    dict
        weights, gradients, optimizer, activations, kv_cache, workspace, total [B].
    """
    if work.phase == "training":
        return {name: float(size) for name, size in training_memory(model, work, plan, software).items()}
    size = DTYPE_BYTES[work.dtype]
    vocabulary = model.embedding_parameters() + model.head_parameters()
    mixtures = sum(map(model.is_moe, range(model.layers)))
    routed = mixtures * model.experts * model.expert_parameters()
    projections = mixtures * model.projection_parameters()
    shared = mixtures * model.shared_parameters()
    divided = (model.parameters() - vocabulary - routed - shared - projections) / plan.tp
    divided += shared / plan.division.shared + routed / (plan.ep * plan.etp) + projections
    rows = work.micro_batch * (1 if work.phase == "decode" else work.sequence_length / plan.cp)
    found: dict[str, float] = {
        "weights": float(divided + vocabulary / (plan.tp if software.shards_head else 1)) * size,
        "gradients": 0.0,
        "optimizer": 0.0,
        "activations": rows * size * (4 * model.hidden + 2 * _widest(model) / plan.tp),
        "kv_cache": _kv_cache(model, work, plan, size),
        "workspace": _workspace(model, work, plan, software, rows),
    }
    found["total"] = sum(found.values())
    return found


def _widest(model: Transformer) -> float:
    return max(model.ffn or 0, (model.expert_ffn or 0) * (model.experts_per_token or 0))


def _kv_cache(model: Transformer, work: Workload, plan: Plan, size: float) -> float:
    """Keys and values of every sequence in flight; a latent cache is replicated on every rank."""
    length = work.sequence_length + work.new_tokens
    sequences = work.global_batch / plan.dp
    share = 1.0 if model.attention == "mla" else -(-model.kv_heads // plan.tp) / model.kv_heads
    return float(sequences * model.kv_cache_bytes(length, size) * share / plan.cp)


def _workspace(model: Transformer, work: Workload, plan: Plan, software: Software, rows: float) -> float:
    """Logits of the rows whose logits are computed."""
    scored = rows if software.all_logits else work.micro_batch
    size: float = scored * model.vocab / (plan.tp if software.shards_head else 1) * DTYPE_BYTES[work.dtype]
    return size
