"""Megatron-style tensor parallelism: every block waits for the all-reduce before it.

Megatron-LM, arXiv 1909.08053, section 3: two all-reduces per layer in each direction. In the backward
pass the weight gradients do not wait and run under the all-reduce.
"""

from __future__ import annotations

from ...build import Builder, Handle
from ...step import Step
from .. import technique


@technique(family="tensor_parallel", paper="Megatron-LM, arXiv 1909.08053")
def baseline(step: Step, build: Builder) -> Handle:
    """Compute, reduce, compute, reduce."""
    reduced = build.start
    for block in step.blocks:
        out = build.compute(block, after=reduced)
        reduced = build.all_reduce(block, after=out)
        build.defer(block, after=out)
    return reduced
