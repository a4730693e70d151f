"""Linear attention: a state instead of scores, worked out in blocks of tokens, on one rank or over a divided sequence.

Modelled is what the kinds of it have in common (basic, Lightning, retention with their constant decay): a state
of head_dim x value_dim for every key/value head, which the query heads of its group share; scores inside blocks
of `BLOCK` tokens; states of blocks written out and added up between kernels, as the Triton kernels of Lightning
Attention do (arXiv 2401.04658; the three forward kernels as recalled). Not modelled: learned gates (GLA) and
feature maps (Based, ReBased), which add streaming passes over keys and queries.

Over a divided sequence every rank's state is gathered by all (`gathered`). Nothing else is worth passing on: a
chunk's keys and values are larger than its state by its tokens over head_dim, so a scheme that would pass them on
does this instead, unless it divides the heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .architecture import STATE_BYTES
from .blocks import Attend
from .kernels import Kernel, Kernels, larger

if TYPE_CHECKING:
    from .build import Builder, Handle
    from .groups import Group

BLOCK = 128  # tokens of a block, Linear-MoE's kernels (their inner step of 64 changes no count here)
# Share of the dense product rate the block kernels reach: products of 64 to 128 on a side, written in Triton.
# Assumed; at most lengths memory traffic is what takes the time.
EFFICIENCY = 0.5


@dataclass(frozen=True, slots=True)
class Parts:
    """Kernels of one direction of linear attention over a chunk, in the order they are run.

    Parameters
    ----------
    state : tuple of Kernel
        Up to the state of the whole chunk (backward: its gradient), which other chunks wait for.
    intra : tuple of Kernel
        What needs nothing of other chunks.
    inter : tuple of Kernel
        What the states of other chunks add.
    """

    state: tuple[Kernel, ...]
    intra: tuple[Kernel, ...]
    inter: tuple[Kernel, ...]


def state_bytes(core: Attend) -> Any:
    """Size of the states of one chunk [B]; independent of its length."""
    return STATE_BYTES * core.batch * core.kv_heads * core.head_dim * core.value_dim


def parts(core: Attend, kernels: Kernels) -> Parts:
    """Kernels of a chunk of `core.query` tokens, in the direction of the core; numbers may be arrays.

    Parameters
    ----------
    core : Attend
    kernels : Kernels

    Returns
    -------
    Parts
        Forward: states of blocks and their running sum; outputs from scores within blocks and from the states
        of blocks before; outputs from the states of other chunks. Backward: the same again for the states and
        their gradients; all gradients within the chunk, and what the state before it, kept from the forward
        pass, gives the queries'; what states behind it give those of keys and values (arXiv 2502.07563,
        algorithms 2 and 4).
    """
    tokens = core.batch * core.query
    size, d, v = kernels.size, core.head_dim, core.value_dim
    queries, outputs = tokens * core.heads * d * size, tokens * core.heads * v * size
    pairs = tokens * core.kv_heads * (d + v) * size  # keys and values
    block = np.minimum(BLOCK, core.query)
    blocks = state_bytes(core) * (core.query / block)
    scores = 2.0 * tokens * core.heads * block  # of one product over blocks, per unit of width
    grow, read = 2.0 * tokens * core.kv_heads * d * v, 2.0 * tokens * core.heads * d * v

    def kernel(name: str, flops: Any, traffic: Any) -> Kernel:
        rate = kernels.device.flops(kernels.wide) * kernels.device.gemm_efficiency * EFFICIENCY
        time = larger(flops / rate, traffic / kernels.bandwidth)
        return Kernel(f"linear attention {name}", flops, traffic, time, kernels.overhead, core=True)

    added = kernel("running sum", 0.0 * blocks, 2.0 * blocks)
    if core.direction == "forward":
        return Parts(
            (kernel("states", grow, pairs + blocks), added),
            (kernel("within chunk", scores * (d + v) + read, queries + pairs + outputs + blocks),),
            (kernel("other chunks", read, queries + 2 * outputs),),
        )
    return Parts(
        (
            kernel("states", grow, pairs + blocks),
            added,
            kernel("gradients of states", read, queries + outputs + blocks),
            added,
        ),
        (
            # Scores again, and products for the gradients of scores, queries, keys and values.
            kernel(
                "gradients within chunk",
                scores * (3 * d + 2 * v) + read + 2 * grow,
                2 * (queries + pairs) + outputs + 2 * blocks,
            ),
            kernel("gradients of queries", read, outputs + 2 * queries),
        ),
        (kernel("gradients of keys and values", 2 * grow, 3 * pairs),),
    )


def whole(core: Attend, kernels: Kernels) -> tuple[Kernel, ...]:
    """Kernels of a sequence that lies on one rank as a whole; of a single token, one that updates and reads the state.

    Parameters
    ----------
    core : Attend
        `query` tokens; `context` is of no meaning.
    kernels : Kernels
    """
    if np.all(np.equal(core.query, 1)):
        work = 2.0 * core.batch * (core.heads + core.kv_heads) * core.head_dim * core.value_dim
        traffic = 2.0 * state_bytes(core)
        return (Kernel("linear attention", work, traffic, traffic / kernels.bandwidth, kernels.overhead, core=True),)
    found = parts(core, kernels)
    # The gradients of queries within a chunk hold what blocks before it add; there is no chunk before.
    return (*found.state, *found.intra[:1])


def context(build: Builder) -> Group | None:
    """Ranks that divide the sequence; None where nothing does, on any plan."""
    return build.context if np.any(np.greater(build.context.size, 1)) else None


def gathered(core: Attend, build: Builder, after: Handle, overlap: bool = True, pieces: int = 1) -> Handle:
    """Every rank's state gathered by all, under what each does within its chunk.

    Parameters
    ----------
    core : Attend
    build : Builder
    after : Handle
    overlap : bool
        Whether the gather runs beside the work within chunks.
    pieces : int
        Collectives the gather is cut into.
    """
    kernels, group = build.kernels, context(build)
    if group is None:
        return build.compute(whole(core, kernels), after)
    found = divided(core, kernels, group, group.size)
    arrived = done = build.compute(found.state, after)
    for _ in range(pieces):
        cost = group.collective("all_gather", group.size * state_bytes(core) / pieces)
        arrived = build.collective(cost, arrived, "cp", group=group)
    done = build.compute(found.intra, done if overlap else arrived)
    return build.compute(found.inter, build.join((done, arrived)))


def divided(core: Attend, kernels: Kernels, group: Group, states: Any) -> Parts:
    """Parts of the last chunk of a divided sequence; of an undivided one, among the plans of a group, only its own.

    Parameters
    ----------
    core : Attend
    kernels : Kernels
    group : Group
    states : float
        States that are read to be added up, before what they add is worked out.
    """
    found = parts(core, kernels)
    traffic = (states + 0.0) * state_bytes(core)
    time = traffic / kernels.bandwidth
    added = Kernel("sum of states", 0.0 * traffic, traffic, time, kernels.overhead, core=True)
    where = np.greater(group.size, 1)
    beyond = tuple(_only(kernel, where) for kernel in found.intra[1:])
    inter = tuple(_only(kernel, where) for kernel in (added, *found.inter))
    return Parts(found.state, (*found.intra[:1], *beyond), inter)


def _only(kernel: Kernel, where: Any) -> Kernel:
    """A kernel on some plans of many."""
    if np.ndim(where) == 0:
        return kernel
    share: Any = np.where(where, 1.0, 0.0)
    return replace(
        kernel,
        flops=kernel.flops * share,
        memory_bytes=kernel.memory_bytes * share,
        time=kernel.time * share,
        overhead=kernel.overhead * share,
    )
