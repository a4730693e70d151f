"""Which layers each pipeline stage holds, and how many parameters a rank of it stores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from ..architecture import Transformer
from ..plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Layers that cost the same.

    Parameters
    ----------
    example : int
        One of them.
    members : numpy.ndarray of bool, shape (layers,)
        Which are.
    """

    example: int
    members: np.ndarray


@lru_cache(maxsize=64)
def kinds(model: Transformer) -> tuple[Kind, ...]:
    """Kinds of layer of a model: dense or mixture, by attention."""
    seen: dict[tuple[bool, int | None, bool], list[int]] = {}
    for layer in range(model.layers):
        seen.setdefault(model.kind(layer), []).append(layer)
    found = []
    for layers in seen.values():
        members = np.zeros(model.layers, dtype=bool)
        members[layers] = True
        found.append(Kind(layers[0], members))
    return tuple(found)


@lru_cache(maxsize=4096)
def chunk_sizes(layers: int, chunks: int) -> tuple[int, ...]:
    """Layers of each chunk, in order.

    What does not divide goes to the chunks in the middle: the ends carry embedding and loss besides.

    Parameters
    ----------
    layers, chunks : int
    """
    base, extra = divmod(layers, chunks)
    first = (chunks - extra) // 2
    return tuple(base + (first <= index < first + extra) for index in range(chunks))


def chunk_layers(layers: int, pp: int, vp: int) -> list[list[range]]:
    """Layers of every chunk, as ``[stage][virtual chunk]``; chunk c of the model is on stage c % pp.

    Parameters
    ----------
    layers, pp, vp : int
    """
    edges = np.concatenate([[0], np.cumsum(chunk_sizes(layers, pp * vp))])
    ranges = [range(int(a), int(b)) for a, b in pairwise(edges)]
    return [[ranges[chunk * pp + stage] for chunk in range(vp)] for stage in range(pp)]


@dataclass(frozen=True, slots=True, eq=False)
class StageTable:
    """Layers of each kind on the stages that can set the pace, of one plan or of many.

    Arrays have the shape (stages, kinds), or (stages, kinds, plans).

    Parameters
    ----------
    counts : numpy.ndarray
        On the first stage, the unlike ones between, and the last; plans with fewer repeat their last.
    before : numpy.ndarray
        On all stages before each of these (the last of its like).
    fullest : numpy.ndarray, shape (kinds,) or (kinds, plans)
        In the chunk with most layers.
    """

    counts: np.ndarray
    before: np.ndarray
    fullest: np.ndarray


@lru_cache(maxsize=65_536)
def _stages(model: Transformer, pp: int, vp: int, schedule: str) -> StageTable:
    parts = chunk_layers(model.layers, pp, vp)
    own = [[layer for part in stage for layer in part] for stage in parts]
    counts = np.array([[int(kind.members[layers].sum()) for kind in kinds(model)] for layers in own])
    if schedule == "dualpipe":  # a rank holds a stage and its mirror image
        counts = counts + counts[::-1]
    before = np.cumsum(counts, axis=0) - counts
    like = {tuple(row): index for index, row in enumerate(counts[1:-1].tolist(), start=1)}
    rows = [0, *sorted(like.values()), pp - 1] if pp > 1 else [0]
    fullest = max((part for stage in parts for part in stage), key=len)
    most = np.array([int(kind.members[list(fullest)].sum()) for kind in kinds(model)])
    return StageTable(counts[rows], before[rows], most)


def stage_table(model: Transformer, plan: Plan) -> StageTable:
    """Stages of one plan, or of many; with dualpipe a rank holds a stage and its mirror image.

    Parameters
    ----------
    model : Transformer
    plan : Plan
        Its degrees may be arrays.
    """
    if np.ndim(plan.pp) == 0 and np.ndim(plan.vp) == 0:
        return _stages(model, int(plan.pp), int(plan.vp), plan.schedule)
    pairs = np.stack([a.ravel() for a in np.broadcast_arrays(plan.pp, plan.vp)], axis=-1)
    unique, place = np.unique(pairs, axis=0, return_inverse=True)
    found = [_stages(model, int(pp), int(vp), plan.schedule) for pp, vp in unique]
    most = max(len(table.counts) for table in found)

    def stacked(rows: list[np.ndarray]) -> np.ndarray:
        padded = [np.concatenate([row, np.repeat(row[-1:], most - len(row), axis=0)]) for row in rows]
        return np.moveaxis(np.stack(padded)[place.ravel()], 0, -1)

    fullest = np.stack([table.fullest for table in found])[place.ravel()].T
    return StageTable(stacked([table.counts for table in found]), stacked([table.before for table in found]), fullest)


def layer_parameters(model: Transformer, layer: int, plan: Plan) -> tuple[Any, Any]:
    """Parameters of a layer that one rank holds: (dense, routed experts).

    Parameters
    ----------
    model : Transformer
    layer : int
    plan : Plan
        Its degrees may be arrays.
    """
    kept = model.norm_parameters() + model.router_parameters(layer)
    if not model.is_moe(layer):
        return (model.attention_parameters() + model.mlp_parameters(layer)) / plan.tp + kept, 0.0 * plan.tp
    routed = model.experts * model.expert_parameters()
    # Every rank takes its own tokens down to a bottleneck and up again.
    kept += model.projection_parameters()
    dense = model.attention_parameters() / plan.tp + model.shared_parameters() / plan.division.shared + kept
    return dense, routed / (plan.ep * plan.etp)


def vocabulary_parameters(model: Transformer, plan: Plan, shards_head: bool) -> tuple[Any, Any]:
    """Parameters of (token embedding, output projection) on a rank of the first and of the last stage.

    A tied embedding is stored on both where they are different ranks.
    """
    share = plan.tp if shards_head else 1
    embedding = model.embedding_parameters() / share
    head: Any = model.vocab * model.hidden / share if model.tied_embeddings else model.head_parameters() / share
    if model.tied_embeddings:
        head = np.where(np.greater(plan.pp, 1), head, 0.0)[()]
    return embedding, head + model.final_norm_parameters()
