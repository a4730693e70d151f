"""Ways of tokens to their experts and back, as collectives of one rank: what techniques of family moe choose from.

Every way yields exchanges along the expert-parallel axis. Bytes are counted as the mean rank sends them; time is
that of the busiest rank, which the others wait for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..simulator.communicator import Collective, Communicator
from ..simulator.expert_exchange import BF16_BYTES, FP8_BYTES, KERNELS, exchange
from .blocks import Exchange, Experts
from .groups import Group
from .kernels import NARROW, Kernel
from .routing.known import Spread

if TYPE_CHECKING:
    from .build import Builder

EP = "ep"


def all_to_all(core: Experts, build: Builder) -> Iterable[Kernel | Exchange]:
    """A copy to each of a token's experts, and the results back: what is done where nothing is asked for.

    GShard, arXiv 2006.16668, section 3.2.
    """
    way = copies(core, build)
    return (*core.shared, *way, *core.work, *back(core, way))


def back(core: Experts, way: Iterable[Exchange]) -> tuple[Exchange, ...]:
    """The same steps in reverse order; none where results do not travel."""
    return tuple(reversed(tuple(way))) if core.returned else ()


def group_of(build: Builder) -> Group:
    """Ranks that divide the experts."""
    return Group(build.cluster, 1) if build.groups is None else build.groups.ep


def spread_of(core: Experts, build: Builder) -> Spread:
    """On how many of them the copies of a token lie."""
    group = group_of(build)
    return core.routing.spread(core.count, core.top_k, group.size, group.nodes())


def token_bytes(core: Experts) -> Any:
    """Size of a token on its way [B]."""
    return core.width * core.element


def copies(core: Experts, build: Builder) -> tuple[Exchange, ...]:
    """All-to-all of every copy."""
    size = core.copies * token_bytes(core)
    return () if alone(build) else (_busiest(Exchange("all_to_all", EP, size), core, group_of(build)),)


def levels(core: Experts, build: Builder, once: bool = True) -> tuple[Exchange, ...]:
    """All-to-all between nodes among ranks of one place in theirs, then inside the nodes.

    Parameters
    ----------
    core : Experts
    build : Builder
    once : bool
        Whether a token travels once to a node, and once to a rank, however many of its experts are there.
    """
    if alone(build):
        return ()
    group, size = group_of(build), token_bytes(core)
    local, nodes = group.local(), group.nodes()
    between = inside = core.copies * size
    if once:
        spread = spread_of(core, build)
        between, inside = (core.tokens * core.padding * number * size for number in (spread.nodes, spread.devices))
    pairs = (
        (Group(build.cluster, nodes, group.stride * local), between),
        (Group(build.cluster, local, group.stride), inside),
    )
    return tuple(
        _busiest(Exchange("all_to_all", EP, amount, group=ranks), core, ranks)
        for ranks, amount in pairs
        if np.any(np.greater(ranks.size, 1))
    )


def scattered(core: Experts, build: Builder, within: Any, beyond: Any) -> tuple[Exchange, ...]:
    """All-to-all that leaves so many bytes of each token inside the node, and so many beyond it.

    Parameters
    ----------
    core : Experts
    build : Builder
    within, beyond : float
        Messages of a token: each as large as it is.
    """
    if alone(build):
        return ()
    size = core.tokens * core.padding * token_bytes(core)

    def price(among: Communicator, load: float, inside: float, outside: float) -> Collective:
        return _meaned(among.scattered(load * inside, load * outside), load)

    cost = group_of(build).each(price, core.load, within * size, beyond * size)
    return (Exchange("all_to_all", EP, (within + beyond) * size, cost=cost),)


def expert_kernels(core: Experts, build: Builder, kind: str, narrow: bool | None = None) -> tuple[Exchange, ...]:
    """Dispatch and combine by kernels made for it: (there, back).

    Parameters
    ----------
    core : Experts
    build : Builder
    kind : str
        normal | low latency | elastic: a kind of `simulator.expert_exchange.KERNELS`.
    narrow : bool, optional
        Whether tokens leave in fp8 with scales; default where products are in a narrow format.
    """
    if alone(build):
        return ()
    group, spread = group_of(build), spread_of(core, build)
    if narrow is None:
        narrow = build.kernels.dtype in NARROW
    found = []
    for direction, element in (("dispatch", FP8_BYTES if narrow else BF16_BYTES), ("combine", BF16_BYTES)):
        kernel = KERNELS[kind, direction]

        def price(
            among: Communicator,
            tokens: float,
            load: float,
            devices: float,
            nodes: float,
            kernel: Any = kernel,
            element: float = element,
        ) -> Collective:
            if among.size == 1:  # of many plans, one that does not divide the experts
                return among.scattered(0.0, 0.0)
            cost = exchange(
                among.cluster,
                among.size,
                kernel,
                tokens=tokens * load,
                hidden=int(core.width),
                top_k=core.top_k,
                experts=core.count,
                element_bytes=element,
                local=among.local,
                reach=(devices, nodes),
            )
            moved = cost.link_bytes + cost.nic_bytes
            units = min(24, among.cluster.device.compute_units) if kernel.copy_rate else 0
            made = Collective("all_to_all", kind, "bulk", cost.time, moved, 2 * moved, moved, units, cost.nic_bytes)
            return _meaned(made, load)

        cost = group.each(price, core.tokens * core.padding, core.load, spread.devices, spread.nodes)
        found.append(Exchange("all_to_all", EP, cost.sent_bytes, cost=cost))
    return tuple(found)


def alone(build: Builder) -> bool:
    """Whether no plan divides the experts."""
    return not np.any(np.greater(group_of(build).size, 1))


def beside(way: Iterable[Exchange], kernels: int) -> tuple[Exchange, ...]:
    """The same, running beside so many of the kernels that follow."""
    return tuple(replace(one, covered=kernels) for one in way)


def _busiest(one: Exchange, core: Experts, ranks: Group) -> Exchange:
    """An exchange of equal parts as long as it takes the busiest rank."""
    if np.all(np.equal(core.load, 1)):
        return one

    def price(among: Communicator, size: float, load: float) -> Collective:
        return _meaned(among.collective("all_to_all", size * load), load)

    return replace(one, cost=ranks.each(price, one.size, core.load))


def _meaned(cost: Collective, load: float) -> Collective:
    """Bytes of the mean rank in the time of the busiest."""
    crossing = None if cost.crossing is None else cost.crossing / load
    return replace(
        cost,
        sent_bytes=cost.sent_bytes / load,
        memory_bytes=cost.memory_bytes / load,
        read_bytes=cost.read_bytes / load,
        crossing=crossing,
    )
