"""Work on a part of its rows: chunks of tokens, or some of the sequences of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .blocks import Attend, Block, Exchange, Experts, Work
from .dispatch import group_of
from .kernels import Kernel, Kernels

if TYPE_CHECKING:
    from .build import Builder

Piece = TypeVar("Piece", Kernel, Exchange, Kernel | Exchange)


def part(item: Piece, parts: Any, make: Kernels) -> Piece:
    """One of equal parts of a kernel, or of a collective, each with a launch of its own.

    Products get lower; those of attention, one for each head and sequence, get fewer.

    Parameters
    ----------
    item : Kernel or Exchange
    parts : int
    make : Kernels
    """
    if isinstance(item, Exchange):
        assert item.cost is None, "what was priced for all cannot be divided"
        return replace(item, size=item.size / parts)
    if item.shape is None:
        return replace(item, **{name: getattr(item, name) / parts for name in ("flops", "memory_bytes", "time")})
    (m, n, k), groups = item.shape, item.groups
    m, groups = (m, groups / parts) if item.core else (m / parts, groups)
    made = make.gemm(item.name, m, n, k, groups, wide=not item.narrow, aligned=item.aligned)
    return replace(made, core=item.core)


def part_of_block(block: Block, parts: Any, build: Builder) -> Block:
    """A block for one of equal parts of its sequences, without what is deferred.

    Parameters
    ----------
    block : Block
    parts : int
    build : Builder
    """
    return replace(
        block,
        kernels=tuple(_part(item, parts, build) for item in block.kernels),
        residual=tuple(part(item, parts, build.kernels) for item in block.residual),
        deferred=(),
        output_bytes=block.output_bytes / parts,
        gather_bytes=block.gather_bytes / parts,
    )


def _part(item: Work, parts: Any, build: Builder) -> Work:
    if isinstance(item, Attend):
        return replace(item, batch=item.batch / parts)
    return part_of_experts(item, parts, build) if isinstance(item, Experts) else part(item, parts, build.kernels)


def part_of_experts(item: Experts, parts: Any, build: Builder) -> Experts:
    """Experts with one of equal parts of their tokens.

    Parameters
    ----------
    item : Experts
    parts : int
    build : Builder
    """
    own = item.count / group_of(build).size
    return replace(
        item,
        tokens=item.tokens / parts,
        gathered=item.gathered / parts,
        shared=tuple(part(kernel, parts, build.kernels) for kernel in item.shared),
        products=tuple(_experts(kernel, parts, build.kernels, own) for kernel in item.products),
    )


def _experts(kernel: Kernel, parts: Any, make: Kernels, own: Any) -> Kernel:
    """A grouped product for a part of the tokens, which fewer of a rank's `own` experts see."""
    if kernel.shape is None:
        return part(kernel, parts, make)
    m, n, k = kernel.shape
    seen = own * (1 - np.power(np.clip(1 - kernel.groups / own, 0.0, 1.0), 1 / parts))
    rows = m * kernel.groups / parts
    return make.gemm(kernel.name, rows / seen, n, k, seen, wide=not kernel.narrow, aligned=kernel.aligned)
