"""LASP: the state goes from rank to rank, each adding its own chunk's before it sends.

arXiv 2404.02882, and 2502.07563 (algorithms 5 and 6): after the work within chunks, which all ranks do at once, a
rank waits for the state of all chunks before its own, works out what that adds to its outputs, and only then
sends the state on: W - 1 hops one after the other, forward and, with the gradients of states, backward. The last
rank's pass takes as long as an undivided pass over its chunk, and W - 1 times a hop and the work before it.

All ranks are taken to enter a layer together. Nothing in the algorithm asks for that: ranks ahead could go on to
the next layer, and only the first layer's chain would then be waited for. The reported gaps to LASP-2 are as
large as a chain in every layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...blocks import Attend
from ...build import Builder, Handle
from ...groups import Group
from ...kernels import Kernel, Kernels
from ...linear_attention import context, divided, state_bytes, whole
from .. import technique
from .lasp2 import only_linear


@technique(
    family="sequence_parallel",
    paper="LASP, arXiv 2404.02882",
    needs="linear attention in every layer",
)
def lasp(core: Attend, build: Builder, after: Handle) -> Handle:
    """Work within the chunk, the chain of states up to the last rank, and what they add to its outputs."""
    only_linear("lasp", core)
    kernels, group = build.kernels, context(build)
    if group is None:
        return build.compute(whole(core, kernels), after)
    found = divided(core, kernels, group, 3)  # the received state and its own are read, their sum is written
    done = build.compute((*found.state, *found.intra), after)
    hop = group.collective("send_recv", state_bytes(core))
    waiting = chain(group, core, kernels, found.inter)
    # One message leaves a rank, and nothing of it is busy while others have the state.
    cost = replace(hop, time=np.maximum(waiting - kernels.software.collective_overhead, 0.0)[()])
    arrived = build.collective(cost, done, "cp", shared=False, group=group)
    return build.compute(found.inter, build.join((done, arrived)))


def chain(group: Group, core: Attend, kernels: Kernels, between: tuple[Kernel, ...]) -> Any:
    """Seconds until the state has come to the last of the ranks: hops, and the kernels before each [s].

    Parameters
    ----------
    group : Group
    core : Attend
    kernels : Kernels
    between : tuple of Kernel
        What a rank does between receiving and sending.
    """
    local, size = group.local(), state_bytes(core)
    crossing = -np.floor_divide(-group.size, local) - 1  # hops from node to node
    inside = Group(group.cluster, local, group.stride)
    wires = (group.size - 1 - crossing) * inside.times("send_recv", size)
    wires = wires + crossing * group.times("send_recv", size)
    work = sum(kernel.time + kernel.overhead for kernel in between) + kernels.software.collective_overhead
    return wires + (group.size - 1) * work
