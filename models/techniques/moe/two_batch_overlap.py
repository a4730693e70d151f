"""Two halves of a batch in turn: while one is on its way to experts, the other is computed.

DeepSeek-V3's prefill and decode (arXiv 2412.19437, section 3.4), and the overlap of micro-batches in serving systems
after it. Both halves go through the same stream of kernels; where one has to wait for an exchange the other goes on.
Products are half as high, so weights are read twice: at small batches that costs more than it hides.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...architecture import Transformer
from ...blocks import Attend, Block, Exchange, Work
from ...build import Builder, Handle
from ...kernels import Kernel
from ...plan import Plan, Workload
from ...split import part_of_block
from ...step import Step
from .. import technique

HALVES = 2


def unfit(model: Transformer, work: Workload, plan: Plan) -> str:
    """Reason where there are no two halves."""
    few = np.any(np.less(work.micro_batch, HALVES))
    return "needs two sequences a pass (legal: workload.micro_batch 2 or more)" if few else ""


@technique(
    family="moe",
    slot="layers",
    paper="DeepSeek-V3, arXiv 2412.19437",
    needs="software only; two sequences a pass",
    unfit=unfit,
)
def two_batch_overlap(step: Step, build: Builder) -> Handle:
    """Each half up to its next exchange, then the other."""
    lanes = [build.start] * HALVES
    for block in step.blocks:
        half = part_of_block(block, HALVES, build)
        for segment in segments(half, build):
            lanes = [build.compute(segment, after=lane) for lane in lanes]
        ready = lanes
        lanes = [build.all_reduce(half, after=lane) for lane in lanes]
        build.defer(block, after=build.join(tuple(ready)))
    return build.join(tuple(lanes))


def segments(block: Block, build: Builder) -> Iterator[list[Work]]:
    """Work of a block, cut behind every exchange that what follows waits for."""
    found: list[Work] = []
    if np.any(block.gather_bytes):
        yield [Exchange("all_gather", "tp", block.gather_bytes)]
    for item in build.expanded(block.kernels):
        found.append(item)
        if isinstance(item, Exchange) and not item.covered:
            yield found
            found = []
    if any(isinstance(item, Kernel | Attend | Exchange) for item in found):
        yield found
