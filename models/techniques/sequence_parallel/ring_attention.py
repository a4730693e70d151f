"""Ring attention: keys and values go round, and attention to those that are here runs beside.

arXiv 2310.01889. With a causal mask parts that follow each other leave the last rank nearly all of the work; zigzag
parts (one from each end, as in Megatron-LM and ring-flash-attention) and striped tokens (arXiv 2311.09431) share it.
Outputs of the steps are merged by their log-sum-exps. Backward, keys and values go round once more, and their
gradients follow one step behind in fp32, back to their owner with the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...attention import Part, block, kv_bytes, merge, parts
from ...blocks import Attend
from ...build import Builder, Handle
from ...groups import Group
from ...kernels import Kernel
from ...linear_attention import gathered
from .. import technique

GRADIENT = 4.0  # bytes of an element of the gradients that go round


@technique(
    family="sequence_parallel",
    paper="Ring Attention, arXiv 2310.01889; striped, arXiv 2311.09431",
)
def ring_attention(
    core: Attend, build: Builder, after: Handle, *, layout: Literal["zigzag", "striped", "contiguous"] = "zigzag"
) -> Handle:
    """Attend to the keys at hand while the next are on their way."""
    if core.linear:
        return gathered(core, build, after)
    return ring(core, build, after, build.context, layout)


def ring(core: Attend, build: Builder, after: Handle, group: Group, layout: str) -> Handle:
    """One attention over the ranks of a group, each with `core.query` tokens.

    Parameters
    ----------
    core : Attend
    build : Builder
    after : Handle
    group : Group
    layout : str
        zigzag | striped | contiguous.
    """
    count, make, backward = int(group.size), build.kernels, core.direction == "backward"
    size = kv_bytes(core, make, core.query)
    held, gradients = after, build.start[:0]
    for step in range(count):
        arrived = build.shift(size, held, group=group) if step < count - 1 else ()
        work = parts(layout if core.causal else "all", count, step)
        done = build.each([_kernels(core, build, part) for part in work], held, group)
        if backward:
            # Gradients of these keys come from the rank before, are added to, and go on to the next with the keys.
            elements = size / make.size
            done = build.join(tuple(handle for handle in (done, gradients) if handle))
            done = build.compute(make.streamed("add gradients", elements * (2 * GRADIENT + make.size)), done)
            gradients = build.shift(elements * GRADIENT, done, "gradients", group=group)
        elif step:
            done = build.each([merge(core, make, _rows(part)) for part in work], done, group)
        held = build.join(tuple(handle for handle in (done, arrived) if handle))
    return build.join((held, gradients)) if gradients else held


def _kernels(core: Attend, build: Builder, part: Sequence[Part]) -> tuple[Kernel, ...]:
    found: tuple[Kernel, ...] = ()
    for query, context, causal in part:
        found += block(core, build.kernels, core.query * query, core.query * context, causal)
    return found


def _rows(part: Sequence[Part]) -> float:
    return max((query for query, _, _ in part), default=0.0)
