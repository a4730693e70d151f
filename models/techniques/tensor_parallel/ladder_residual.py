"""Ladder residual: each block reads the residual stream one reduction late.

arXiv 2501.06589, Algorithm 1: x_i = x_(i-1) + AR(h_i(x_(i-2))). The all-reduce of a block runs while
the next block computes; both share one communication stream, so reductions never overtake. The
price is a residual addition of its own per block, and the compute units and memory bandwidth that
the collective takes from the kernels beside it. Not modelled: what the changed network learns.
"""

from __future__ import annotations

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
    for block in step.blocks:
        out = build.compute((*block.residual, *block.kernels), after=reduced[-2])
        reduced.append(build.all_reduce(block, after=out))
        build.defer(block, after=out)
    return build.join((reduced[-2], reduced[-1]))
