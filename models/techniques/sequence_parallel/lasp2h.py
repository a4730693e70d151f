"""LASP-2H: LASP-2 in the layers of linear attention of a hybrid, gathered keys and values in the others.

arXiv 2502.07563, algorithm 7: a softmax layer gathers all keys and values, with nothing beside it, and a rank's own
queries then attend to those before them. Backward the sums of their gradients are scattered; the gathered keys
and values are kept until then, which the footprint does not count. The chunks are contiguous, so the last rank
has almost twice the mean to do, and is the one modelled.
"""

from __future__ import annotations

from ...attention import block, kv_bytes
from ...blocks import Attend
from ...build import Builder, Handle
from ...kernels import Kernel
from ...linear_attention import context, gathered
from .. import technique


@technique(
    family="sequence_parallel",
    paper="LASP-2H, arXiv 2502.07563",
    needs="linear attention in some layers",
)
def lasp2h(core: Attend, build: Builder, after: Handle) -> Handle:
    """States gathered where attention is linear, keys and values where it is not."""
    if core.linear:
        return gathered(core, build, after)
    group = context(build)
    if group is None:
        return build.compute(block(core, build.kernels), after)
    # A sliding window leaves less to attend to, and as much to gather.
    size, attention = kv_bytes(core, build.kernels, core.tokens), last_rank(core, build)
    if core.direction == "backward":
        done = build.compute(attention, after)
        return build.collective(group.collective("reduce_scatter", size), done, "cp", group=group, queued=True)
    arrived = build.collective(group.collective("all_gather", size), after, "cp", group=group, queued=True)
    return build.compute(attention, arrived)


def last_rank(core: Attend, build: Builder) -> tuple[Kernel, ...]:
    """Attention of the last chunk's queries: all of the chunks before, half of its own; under a window, all of it."""
    if not core.causal or core.context < core.whole:
        return block(core, build.kernels, causal=False)
    before = block(core, build.kernels, core.query, core.context - core.query, causal=False)
    return (*before, *block(core, build.kernels, core.query, core.query, causal=True))
