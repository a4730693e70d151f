"""The bound no technique can pass that only moves data: the same kernels with every collective of a layer removed."""

from __future__ import annotations

from ...blocks import Exchange
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
        kept = [item for item in build.expanded(block.kernels) if not isinstance(item, Exchange)]
        done = build.compute(kept, after=done)
        build.defer(block, after=done)
    return done
