"""DeepSpeed-Ulysses: parts of the sequence outside attention, parts of the heads inside it, all-to-alls between.

arXiv 2309.14509: queries, keys and values each go from all heads of some tokens to some heads of all tokens, and the
output comes back; nothing overlaps. A rank then has whole sequences, so a causal mask needs no balancing. Key and
value heads fewer than the ranks are sent to several of them. Every all-to-all is packed before and unpacked after.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from ....hardware.errors import InputError
from ...attention import whole
from ...blocks import Attend
from ...build import Builder, Handle
from ...groups import Group
from .. import technique

PACK = 2  # a message is read and written before it is sent, and again when it has come


def all_to_alls(
    core: Attend, build: Builder, after: Handle, group: Group, widths: tuple[float, ...], packed: bool = False
) -> Handle:
    """Tensors of a rank's tokens exchanged one after the other, or all as one message.

    Parameters
    ----------
    core : Attend
        Before the exchange inwards: its `query` are a rank's own tokens.
    build : Builder
    after : Handle
    group : Group
    widths : tuple of float
        Elements of a token in each tensor.
    packed : bool
    """
    for width in (sum(widths),) if packed else widths:
        size = core.batch * core.query * width * build.kernels.size
        after = build.compute(build.kernels.streamed("pack", PACK * size), after)
        after = build.collective(group.collective("all_to_all", size), after, "cp", group=group)
        after = build.compute(build.kernels.streamed("unpack", PACK * size), after)
    return after


def by_heads(core: Attend, ranks: int) -> Attend:
    """The core of a rank that has all tokens of its share of the heads.

    Raises
    ------
    InputError
        When the ranks do not divide the query heads.
    """
    if core.heads % ranks:
        raise InputError(
            f"techniques: ulysses: {ranks} ranks do not divide the {core.heads:g} query heads of a tensor-parallel "
            "rank (legal: a plan.cp that does, or usp with a degree that does)"
        )
    return replace(
        core, query=core.query * ranks, heads=core.heads // ranks, kv_heads=max(1, -(-core.kv_heads // ranks))
    )


def widths(core: Attend, ranks: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Elements of a token in each tensor that goes in and that comes out; backward, gradients the other way."""
    keys = max(core.kv_heads, min(ranks, core.heads))  # a copy for every rank where there are fewer
    inward = (core.heads * core.head_dim, keys * core.head_dim, keys * core.value_dim)
    outward = (core.heads * core.value_dim,)
    return (inward, outward) if core.direction == "forward" else (outward, inward)


def whole_heads(heads: Any, cp: Any, **_: Any) -> Any:
    """Whether every rank gets as many heads."""
    return heads % cp == 0


@technique(
    family="sequence_parallel",
    paper="DeepSpeed-Ulysses, arXiv 2309.14509",
    needs="query heads that the ranks divide",
    shares=whole_heads,
)
def ulysses(core: Attend, build: Builder, after: Handle, *, packed: Literal["no", "yes"] = "no") -> Handle:
    """All-to-alls in, attention over all tokens of some heads, all-to-all out.

    Parameters
    ----------
    core : Attend
    build : Builder
    after : Handle
    packed : str
        "yes" sends queries, keys and values as one message.
    """
    ranks, group = build.cp_size, build.context
    if ranks == 1:
        return build.compute(whole(core, build.kernels), after)
    inward, outward = widths(core, ranks)
    after = all_to_alls(core, build, after, group, inward, packed == "yes")
    after = build.compute(whole(by_heads(core, ranks), build.kernels), after)
    return all_to_alls(core, build, after, group, outward, packed == "yes")
