"""The bound no tensor-parallel technique can pass: the same kernels with every all-reduce removed."""

from __future__ import annotations

from ...build import Builder, Handle
from ...step import Step
from .. import technique


@technique(
    family="tensor_parallel",
    paper="none; a bound",
    needs="wrong results: partial sums are never added",
)
def no_communication(step: Step, build: Builder) -> Handle:
    """Compute only."""
    done = build.start
    for block in step.blocks:
        done = build.compute(block.kernels, after=done)
        build.defer(block, after=done)
    return done
