"""Device-memory footprint of a scenario."""

from __future__ import annotations

from .architecture import Transformer
from .kernels import DTYPE_BYTES
from .plan import Plan, Workload
from .software import Software

MASTER_AND_MOMENTS = 12  # fp32 master weight and two Adam moments, B per parameter (ZeRO, arXiv 1910.02054)


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
    size = DTYPE_BYTES[work.dtype]
    tp, training = plan.tp, work.phase == "training"
    vocabulary = model.embedding_parameters() + model.head_parameters()
    divided = (model.parameters() - vocabulary) / tp
    count = divided + vocabulary / (tp if software.shards_head else 1)
    share = {
        "weights": 3,
        "gradients": 2,
        "optimizer": 1,
    }  # ZeRO stage from which each is divided over dp

    def over_dp(what: str) -> float:
        return plan.dp if plan.zero >= share[what] else 1

    rows = work.micro_batch * (1 if work.phase == "decode" else work.sequence_length)
    found = {
        "weights": count * size / over_dp("weights"),
        "gradients": count * size / over_dp("gradients") if training else 0.0,
        "optimizer": count * MASTER_AND_MOMENTS / over_dp("optimizer") if training else 0.0,
        "activations": _training_activations(model, work, plan, software, size)
        if training
        else rows * size * (4 * model.hidden + 2 * _widest(model) / tp),
        "kv_cache": 0.0 if training else _kv_cache(model, work, plan, size),
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
    total = 0.0
    for layer in range(model.layers):
        window = model.window(layer)
        total += model.kv_bytes_per_token(size, layer) * (min(length, window) if window else length)
    return sequences * total * share


def _training_activations(model: Transformer, work: Workload, plan: Plan, software: Software, size: float) -> float:
    """Activations kept for the backward pass.

    Korthikanti et al., arXiv 2205.05198, equations 1 to 6, with the model's own MLP width instead of
    4 h and without attention dropout.
    """
    h, tp = model.hidden, plan.tp
    rows = work.micro_batch * work.sequence_length
    if plan.recompute == "full":
        return model.layers * rows * h * size
    serial = 4 * h / (tp if plan.sequence_parallel else 1)  # two norms and the two block inputs
    width = model.heads * (model.head_dim + model.v_head_dim) + 2 * model.kv_heads * model.head_dim
    attention = width / tp
    mlp = (3 if model.gated else 2) * _widest(model) / tp
    scores = 0.0
    if plan.recompute == "none" and software.attention == "math":
        scores = 2.5 * model.heads / tp * work.sequence_length
    return model.layers * rows * size * (serial + attention + mlp + scores)


def _workspace(model: Transformer, work: Workload, plan: Plan, software: Software, rows: float) -> float:
    """Logits (fp32 in the loss) of the rows whose logits are computed."""
    width = model.vocab / (plan.tp if software.shards_head else 1)
    if work.phase == "training":
        return rows * width * 4
    scored = rows if software.all_logits else work.micro_batch
    return scored * width * DTYPE_BYTES[work.dtype]
