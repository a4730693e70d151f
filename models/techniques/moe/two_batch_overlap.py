"""Two halves of a batch in turn: while one is on its way to experts, the other is computed.

DeepSeek-V3's prefill and decode (arXiv 2412.19437, section 3.4), and the overlap of micro-batches in serving systems
after it. Both halves go through the same stream of kernels; where one has to wait for an exchange the other goes on.
Products are half as high, so weights are read twice: at small batches that costs more than it hides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...architecture import Transformer
from ...blocks import Block, Exchange, Work
from ...build import Builder, Handle
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
    apart=True,
    unfit=unfit,
)
def two_batch_overlap(step: Step, build: Builder) -> Handle:
    """Each half up to its next exchange, then the other."""
    lanes = [build.start] * HALVES
    for turn in turns(step, build):
        ready = [build.compute(turn.work, after=lane) for lane in lanes]
        lanes = [build.all_reduce(turn.block, after=lane) for lane in ready] if turn.block else ready
        for block in turn.through:
            build.defer(block, after=build.join(tuple(ready)))
    return build.join(tuple(lanes))


@dataclass
class Turn:
    """What a half does before the other takes over.

    Parameters
    ----------
    work : list of Work
        Up to an exchange that what follows waits for.
    block : Block, optional
        Whose output is added up then.
    through : list of Block
        Whole ones that end in this turn.
    """

    work: list[Work] = field(default_factory=list)
    block: Block | None = None
    through: list[Block] = field(default_factory=list)


def turns(step: Step, build: Builder) -> Iterator[Turn]:
    """Work of a half, cut behind every exchange, across blocks where nothing is exchanged between them."""
    turn = Turn()
    for block in step.blocks:
        half = part_of_block(block, HALVES, build)
        gather = [Exchange("all_gather", "tp", half.gather_bytes)] if np.any(half.gather_bytes) else []
        for item in (*gather, *build.expanded(half.kernels)):
            turn.work.append(item)
            if isinstance(item, Exchange) and not item.covered:
                yield turn
                turn = Turn()
        turn.through.append(block)
        if np.any(half.output_bytes):
            turn.block = half
            yield turn
            turn = Turn()
    yield turn
