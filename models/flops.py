"""FLOPs a model asks for, by the convention of this project's `mfu`."""

from __future__ import annotations

from .architecture import Transformer
from .plan import Workload


def model_flops(model: Transformer, work: Workload) -> float:
    """FLOPs of the whole scenario over all devices, without recomputation.

    Two per active matrix parameter and token (embedding look-up excluded, output projection
    included), plus attention: 2 (head_dim + v_head_dim) per head and pair of tokens, causal half; where it
    is linear, 2 head_dim v_head_dim per token for every state it adds to and every query that reads one.
    Training counts three times the forward pass.

    Parameters
    ----------
    model : Transformer
    work : Workload

    Returns
    -------
    float
        FLOPs.
    """
    length, new = work.sequence_length, work.new_tokens
    # (new tokens, context before them) of each sequence's passes
    if work.phase == "decode":
        spans = [(1, length)]
    elif work.phase == "generate":
        spans = [(length + new - 1, 0)]
    else:
        spans = [(length, 0)]
    weights = matrix_parameters(model)
    total = 0.0
    for tokens, before in spans:
        total += 2.0 * weights * tokens
        for layer in range(model.layers):
            if model.is_linear(layer):
                total += 2.0 * (model.heads + model.kv_heads) * model.head_dim * model.v_head_dim * tokens
                continue
            pairs = _pairs(tokens, before, model.window(layer))
            total += 2.0 * model.heads * (model.head_dim + model.v_head_dim) * pairs
    return work.global_batch * total * (3 if work.phase == "training" else 1)


def matrix_parameters(model: Transformer) -> float:
    """Active parameters that take part in a matrix product for every token."""
    head = model.vocab * model.hidden  # a tied embedding is multiplied with, too
    return model.active_parameters() - model.embedding_parameters() - model.head_parameters() + head


def _pairs(tokens: int, before: int, window: int | None) -> float:
    """Query-key pairs of `tokens` causal tokens after `before` others."""
    full = tokens * before + tokens * (tokens + 1) / 2
    if window is None or before + tokens <= window:
        return full
    if before >= window:
        return float(tokens * window)
    inside = window - before
    return inside * before + inside * (inside + 1) / 2 + (tokens - inside) * window
