"""Ladder residual: each block reads the residual stream one reduction late.

arXiv 2501.06589, Algorithm 1: x_i = x_(i-1) + AR(h_i(x_(i-2))). The all-reduce of a block runs while
the next block computes; both share one communication stream, so reductions never overtake. The
price is a residual addition of its own per block, and the compute units and memory bandwidth that
the collective takes from the kernels beside it. Not modelled: what the changed network learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...blocks import Block
from ...build import Builder, Handle
from ...step import Step
from .. import technique


@technique(
    family="tensor_parallel",
    paper="Ladder Residual, arXiv 2501.06589",
    needs="a model trained (or adapted) with ladder residuals",
)
def ladder_residual(step: Step, build: Builder) -> Handle:
    """Each block waits for the reduction before last."""
    reduced = [build.start, build.start]
    ready = gathered(step.blocks[:1], build, after=build.start)
    for number, block in enumerate(step.blocks, 1):
        # What the next block reads is gathered before this one is reduced: in one stream it would else wait for that.
        here, ready = ready, gathered(step.blocks[number : number + 1], build, after=reduced[-1])
        out = build.compute((*block.residual, *block.kernels), after=here)
        reduced.append(build.all_reduce(block, after=out))
        build.defer(block, after=out)
    return build.join((reduced[-2], reduced[-1]))


def gathered(blocks: Sequence[Block], build: Builder, after: Handle) -> Handle:
    """Input of a block, if there is one, where every rank holds a part of it (sequence parallelism)."""
    for block in blocks:
        after = build.compute(replace(block, kernels=()), after)
    return after
