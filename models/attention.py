"""Attention over sequences that context-parallel ranks hold parts of: its kernels, block by block."""

from __future__ import annotations

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
    )
    if core.direction == "forward":
        return made
    turn = Gradients()
    turn.kernels = kernels
    return tuple(item for item in turn.backward_kernels(made, weights=False) if isinstance(item, Kernel))


def kv_bytes(core: Attend, kernels: Kernels, tokens: Any) -> Any:
    """Size of the keys and values of some tokens [B]."""
    return core.batch * tokens * core.kv_heads * (core.head_dim + core.value_dim) * kernels.size


def beside(core: Attend, build: Builder, after: Handle) -> Handle:
    """Keys and values passed on while attention runs over balanced parts: what is done where nothing is asked for.

    In the backward pass they go round again, and their gradients come back.
    """
    size = kv_bytes(core, build.kernels, core.context)
    kind, size = ("all_gather", size) if core.direction == "forward" else ("reduce_scatter", 2 * size)
    return build.compute((Exchange(kind, "cp", size, covered=True), *block(core, build.kernels)), after)
