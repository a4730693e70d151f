"""Chunked overlap in software: the GEMM is split into row chunks, each reduced while the next computes.

The decomposition of Wang et al. (ASPLOS 2023) as shipped in PyTorch's async tensor parallelism and
Flux. Smaller chunks fill the device worse (tiles and waves), each pays its launch gap and its
collective's fixed cost, and a collective kernel takes compute units and memory bandwidth from the
GEMM beside it; copy engines avoid the first of the two. With sequence parallelism the first GEMM
begins with a rank's own rows while those of the others come, a rank's at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ...blocks import Block, Work
from ...build import Builder, Handle
from ...kernels import Kernel
from ...split import part
from ...step import Step
from .. import technique


@technique(
    family="tensor_parallel",
    paper="Wang et al., ASPLOS 2023, doi 10.1145/3567955.3567959",
    needs="software only",
    apart=True,
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
    reduced, units = build.start, 0 if engine == "copy" else None
    for block in step.blocks:
        *before, last = block.kernels
        if not isinstance(last, Kernel) or last.shape is None or not np.any(block.output_bytes):
            reduced = build.all_reduce(block, after=build.compute(block, after=reduced))
            continue
        out = gathered(block, before, chunks, build, after=reduced, units=units)
        parts = []
        for share, piece in pieces(last, chunks, build):
            out = build.compute([piece], after=out)
            parts.append(build.all_reduce(replace(block, output_bytes=block.output_bytes * share), out, units))
        reduced = build.join(tuple(parts))
        build.defer(block, after=out)
    return reduced


def pieces(product: Kernel, chunks: Any, build: Builder) -> list[tuple[Any, Kernel]]:
    """Chunks of a GEMM, none of them lower than an output tile, each with its share of the rows.

    Of many plans some have fewer chunks than others: the last ones of these are nothing.
    """
    assert product.shape is not None
    most = np.maximum(1, np.floor_divide(product.shape[0], min(build.device.gemm_tile)))
    count = np.minimum(chunks, most)[()]
    chunk = part(product, count, build.kernels)
    found: list[tuple[Any, Kernel]] = []
    for number in range(int(np.max(count))):
        there = np.less(number, count)
        if np.all(there):
            found.append((1 / count, chunk))
            continue
        costs = {name: getattr(chunk, name) * there for name in ("flops", "memory_bytes", "time", "overhead")}
        found.append((there / count, replace(chunk, **costs)))
    return found


def gathered(
    block: Block, kernels: Sequence[Work], chunks: int, build: Builder, after: Handle, units: int | None
) -> Handle:
    """Kernels of a block; where its input is gathered, the first GEMM takes a rank's own rows and then what comes.

    Parameters
    ----------
    block : Block
    kernels : sequence of Work
        All but its last GEMM.
    chunks : int
        At most; there are no more than ranks.
    build : Builder
    after : Handle
    units : int, optional
        Compute units that a collective takes.
    """
    products = (i for i, item in enumerate(kernels) if isinstance(item, Kernel) and item.shape and not item.core)
    first = next(products, None)
    if first is None or not np.any(block.gather_bytes):
        return build.compute(kernels, after=after)
    product = kernels[first]
    assert isinstance(product, Kernel)
    divided = pieces(product, np.minimum(chunks, build.tensor.size), build)
    own = divided[0][0]
    alone = np.equal(own, 1)[()]  # too few rows to divide: the whole is waited for
    others = np.where(alone, 1.0, 1 - own)[()]

    def gather(share: Any) -> Handle:
        return build.collective(build.tensor.collective("all_gather", block.gather_bytes * share), held, units=units)

    held = build.compute(kernels[:first], after=after)
    out = gather(alone) if np.any(alone) else held
    arrived: list[Handle] = [(), *(gather(share / others) for share, _ in divided[1:])]
    for chunk, (_, piece) in zip(arrived, divided, strict=True):
        out = build.compute([piece], after=build.join((out, chunk)))
    return build.compute(kernels[first + 1 :], after=out)
