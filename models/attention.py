"""Attention over sequences that context-parallel ranks hold parts of: its kernels, block by block.

Lengths of blocks are parts of a rank's own tokens. Where the mask is causal, how tokens are laid out over the ranks
says which blocks have scores: see `parts`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .blocks import Attend, Exchange
from .gradients import Gradients
from .kernels import Kernel, Kernels

if TYPE_CHECKING:
    from .build import Builder, Handle


def block(
    core: Attend,
    kernels: Kernels,
    query: Any = None,
    context: Any = None,
    causal: bool | None = None,
) -> tuple[Kernel, ...]:
    """Kernels of one block of scores, in the direction of the core.

    Parameters
    ----------
    core : Attend
    kernels : Kernels
    query, context : float, optional
        Tokens and keys of the block; default those of the core.
    causal : bool, optional
        Whether half of the block is masked; default as the core says.
    """
    made = kernels.attention(
        core.batch,
        core.query if query is None else query,
        core.context if context is None else context,
        core.heads,
        core.kv_heads,
        core.head_dim,
        core.value_dim,
        core.causal if causal is None else causal,
        core.whole if query is None and context is None else 0.0,
    )
    if core.direction == "forward":
        return made
    turn = Gradients()
    turn.kernels = kernels
    return tuple(item for item in turn.backward_kernels(made, weights=False) if isinstance(item, Kernel))


Part = tuple[float, float, bool]
"""Queries and keys of a block, in parts of a rank's tokens, and whether half of it is masked."""


@lru_cache(maxsize=4096)
def parts(layout: str, ranks: int, step: int) -> tuple[tuple[Part, ...], ...]:
    """Blocks of every rank at a step of a ring, in which rank r has the keys of rank r - step.

    Parameters
    ----------
    layout : str
        "contiguous": one run of tokens a rank. "zigzag": two, the r-th from either end. "striped": every
        `ranks`-th token. "all": nothing is masked.
    ranks, step : int

    Returns
    -------
    tuple of tuple of Part
        For each rank.
    """
    found: list[tuple[Part, ...]] = []
    for rank in range(ranks):
        owner = (rank - step) % ranks
        if layout == "all":
            found.append(((1.0, 1.0, False),))
        elif step == 0 or layout == "striped":  # striped blocks differ by the diagonal alone, which is not counted
            found.append(((1.0, 1.0, True),))
        elif layout == "contiguous":
            found.append(((1.0, 1.0, False),) if owner < rank else ())
        else:
            found.append(((1.0, 0.5, False),) if owner < rank else ((0.5, 1.0, False),))
    return tuple(found)


def merge(core: Attend, kernels: Kernels, part: float) -> tuple[Kernel, ...]:
    """A block's output added to the running one, weighed by their log-sum-exps, for a part of a rank's tokens.

    The running output is fp32, read and written; backward it is the queries' gradient.
    """
    width = core.value_dim if core.direction == "forward" else core.head_dim
    elements = core.batch * core.query * core.heads * width * part
    return kernels.streamed("merge", elements * (2 * 4.0 + kernels.size)) if part else ()


def whole(core: Attend, kernels: Kernels) -> tuple[Kernel, ...]:
    """Kernels of attention over sequences that a rank has whole."""
    from .linear_attention import whole as linear

    return linear(core, kernels) if core.linear else block(core, kernels)


def kv_bytes(core: Attend, kernels: Kernels, tokens: Any) -> Any:
    """Size of the keys and values of some tokens [B]."""
    return core.batch * tokens * core.kv_heads * (core.head_dim + core.value_dim) * kernels.size


def beside(core: Attend, build: Builder, after: Handle) -> Handle:
    """Keys and values passed on while attention runs over balanced parts: what is done where nothing is asked for.

    In the backward pass they go round again, and their gradients come back.
    """
    if core.linear:
        from .linear_attention import gathered

        return gathered(core, build, after)
    size = kv_bytes(core, build.kernels, core.tokens)
    kind, size = ("all_gather", size) if core.direction == "forward" else ("reduce_scatter", 2 * size)
    return build.compute((Exchange(kind, "cp", size, covered=True), *block(core, build.kernels)), after)
