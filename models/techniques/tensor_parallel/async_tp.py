"""Chunked overlap in software: the GEMM is split into row chunks, each reduced while the next computes.

The decomposition of Wang et al. (ASPLOS 2023) as shipped in PyTorch's async tensor parallelism and
Flux. Smaller chunks fill the device worse (tiles and waves), each pays its launch gap and its
collective's fixed cost, and a collective kernel takes compute units and memory bandwidth from the
GEMM beside it; copy engines avoid the first of the two. With sequence parallelism a block's input
is gathered whole, with nothing beside it; the two named gather it in chunks too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ...build import Builder, Handle
from ...kernels import Kernel
from ...step import Step
from .. import technique


@technique(
    family="tensor_parallel",
    paper="Wang et al., ASPLOS 2023, doi 10.1145/3567955.3567959",
    needs="software only",
)
def async_tp(step: Step, build: Builder, *, chunks: int = 4, engine: Literal["sm", "copy"] = "sm") -> Handle:
    """GEMM chunk i + 1 computes while chunk i is reduced.

    Parameters
    ----------
    chunks : int
        Row chunks of every GEMM that ends in a reduction; fewer where a chunk would be less than
        one output tile high.
    engine : str
        What moves the data: "sm" collective kernels, or "copy" engines.
    """
    reduced = build.start
    for block in step.blocks:
        *before, last = block.kernels
        if not isinstance(last, Kernel) or last.shape is None or not block.output_bytes:
            reduced = build.all_reduce(block, after=build.compute(block, after=reduced))
            continue
        rows, columns, depth = last.shape
        chunks_here = max(1, min(chunks, int(rows // min(build.device.gemm_tile))))
        piece = build.kernels.gemm(f"{last.name} chunk", rows / chunks_here, columns, depth)
        part = replace(block, output_bytes=block.output_bytes / chunks_here)
        out = build.compute(replace(block, kernels=tuple(before)), after=reduced)
        parts = []
        for _ in range(chunks_here):
            out = build.compute([piece], after=out)
            parts.append(build.all_reduce(part, after=out, units=0 if engine == "copy" else None))
        reduced = build.join(tuple(parts))
        build.defer(block, after=out)
    return reduced
