"""Unified sequence parallelism: rings of Ulysses groups.

arXiv 2405.07719: ranks form a grid. Neighbours exchange heads for tokens by all-to-all (fast links, inside a node);
the groups that hold the same heads then pass keys and values round. Fewer ranks exchange heads than alone, and a
ring's messages are of fewer heads and its steps fewer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ....hardware.errors import InputError
from ...blocks import Attend
from ...build import Builder, Handle
from ...groups import Group
from .. import technique
from .ring_attention import ring
from .ulysses import all_to_alls, by_heads, ulysses, widths

DEGREE = 8  # ranks of a node of most machines


def whole_grid(heads: Any, cp: Any, degree: int = DEGREE, **_: Any) -> Any:
    """Whether the ranks fill a grid, and every rank of a row gets as many heads."""
    inner = np.minimum(degree, cp)
    return (cp % inner == 0) & (heads % inner == 0)


@technique(
    family="sequence_parallel",
    paper="USP, arXiv 2405.07719",
    needs="query heads that the Ulysses degree divides",
    shares=whole_grid,
)
def usp(
    core: Attend,
    build: Builder,
    after: Handle,
    *,
    degree: int = DEGREE,
    layout: Literal["zigzag", "striped", "contiguous"] = "zigzag",
    packed: Literal["no", "yes"] = "no",
) -> Handle:
    """Exchange heads among neighbours, then a ring over the groups of neighbours.

    Parameters
    ----------
    core : Attend
    build : Builder
    after : Handle
    degree : int
        Ranks that exchange heads; the ring has the others. As many as there are where there are fewer.
    layout : str
        Of the ring.
    packed : str
        "yes" exchanges queries, keys and values as one message.
    """
    group, ranks = build.context, build.cp_size
    inner = min(degree, ranks)
    if ranks % inner:
        raise InputError(
            f"techniques: usp.degree: {degree} does not divide plan.cp {ranks} (legal: a degree that does)"
        )
    if core.linear:
        return ulysses(core, build, after, packed=packed)
    neighbours = Group(group.cluster, inner, group.stride)
    others = Group(group.cluster, ranks // inner, group.stride * inner)
    inward, outward = widths(core, inner)
    if inner > 1:
        after = all_to_alls(core, build, after, neighbours, inward, packed == "yes")
    mine = replace(by_heads(core, inner), context=core.context)
    after = ring(mine, build, after, others, layout)
    return all_to_alls(core, build, after, neighbours, outward, packed == "yes") if inner > 1 else after
