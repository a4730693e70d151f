"""Ring attention: keys and values go round, and attention to those that are here runs beside.

arXiv 2310.01889. With a causal mask parts that follow each other leave the last rank nearly all of the work; zigzag
parts (one from each end, as in Megatron-LM and ring-flash-attention) and striped tokens (arXiv 2311.09431) share it.
Outputs of the steps are merged by their log-sum-exps. Backward, keys and values go round once more, and their
gradients follow one step behind in fp32, back to their owner with the last; one communicator sends both, in turn.
"""

from __future__ import annotations

from math import ceil
from typing import Literal

from ...attention import Part, block, kv_bytes, merge, parts
from ...blocks import Attend
from ...build import Builder, Handle
from ...groups import Group
from ...kernels import Kernel, Kernels
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
    if count == 1:
        return build.compute(block(core, make), after)
    size = kv_bytes(core, make, core.query)
    turns = [parts(layout if core.causal else "all", count, step) for step in range(count)]
    if core.context < (count - 1) * core.query:
        # A sliding window, a token itself in it, ends in the parts of the next ranks before, where parts are runs of
        # tokens. Tokens of the first window see half of it.
        reach = 1 + ceil((core.context - 1) / core.query)
        seen = 1 - core.context / (2 * count * core.query) if core.causal else 1.0
        share = (1.0, seen * core.context / core.query / reach, False)
        turns = [((share,),) * count] * reach
    held, gradients = after, build.start[:0]
    for step, work in enumerate(turns):
        arrived = build.shift(size, held, group=group) if step < len(turns) - 1 else ()
        made = {mine: _kernels(core, make, mine) for mine in set(work)}
        done = build.each([made[mine] for mine in work], held, group)
        if backward:
            # Gradients of these keys come from the rank before, are added to, and go on to the next with the keys.
            elements = size / make.size
            done = build.join(tuple(handle for handle in (done, gradients) if handle))
            done = build.compute(make.streamed("add gradients", elements * (2 * GRADIENT + make.size)), done)
            gradients = build.shift(elements * GRADIENT, done, group=group)
        if step:
            rows = [max((rows for rows, *_ in mine), default=0.0) for mine in work]
            done = build.each([merge(core, make, part) for part in rows], done, group)
        held = build.join(tuple(handle for handle in (done, arrived) if handle))
    return build.join((held, gradients)) if gradients else held


def _kernels(core: Attend, make: Kernels, work: tuple[Part, ...]) -> tuple[Kernel, ...]:
    """Kernels of a rank's blocks."""
    blocks = (block(core, make, core.query * rows, core.query * keys, masked) for rows, keys, masked in work)
    return tuple(kernel for found in blocks for kernel in found)
