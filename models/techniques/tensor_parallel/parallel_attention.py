"""Attention and MLP side by side: one all-reduce per layer instead of two.

GPT-J and PaLM (arXiv 2204.02311, section 2): both halves read the same normed input, so their input
projections fuse into one GEMM and their outputs are added before a single all-reduce.
Not modelled: what the changed network learns.
"""

from __future__ import annotations

from itertools import groupby

from ...build import Builder, Handle
from ...step import Step
from .. import technique


@technique(
    family="tensor_parallel",
    paper="PaLM, arXiv 2204.02311",
    needs="a model trained with parallel blocks",
)
def parallel_attention(step: Step, build: Builder) -> Handle:
    """One fused block and one reduction per layer."""
    reduced = build.start
    for _, halves in groupby(step.blocks, key=lambda block: (block.layer, block.again)):
        block = step.side_by_side(tuple(halves))
        out = build.compute(block, after=reduced)
        reduced = build.all_reduce(block, after=out)
        build.defer(block, after=out)
    return reduced
