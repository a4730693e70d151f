"""Keys and values of the whole sequence gathered first, then attention by a rank's own queries.

Llama 3 (arXiv 2407.21783, section 3.3.2): nothing overlaps, but one collective serves, any mask is easy, and with
grouped keys and values there is little to gather. Queries are laid out in zigzag, so the ranks have equal work.
Backward, keys and values are gathered once more and their gradients scattered.
"""

from __future__ import annotations

from ...attention import block, kv_bytes
from ...blocks import Attend
from ...build import Builder, Handle
from ...linear_attention import gathered
from .. import technique


@technique(family="sequence_parallel", paper="Llama 3, arXiv 2407.21783", needs="memory for all keys and values")
def gathered_kv(core: Attend, build: Builder, after: Handle) -> Handle:
    """Gather, then attend; backward, scatter the gradients."""
    if core.linear:
        return gathered(core, build, after)
    group = build.context
    # A sliding window leaves less to attend to, and as much to gather.
    size = kv_bytes(core, build.kernels, core.tokens)
    after = build.collective(group.collective("all_gather", size), after, "cp", group=group)
    after = build.compute(block(core, build.kernels), after)
    if core.direction == "backward":
        after = build.collective(group.collective("reduce_scatter", size), after, "cp", group=group)
    return after
