"""Islands of any kind and size, joined by an outer network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from . import checks
from .leaf_spine import shares


def compose(
    islands: Sequence[Topology],
    outer: Topology,
    nics: int | Sequence[int] | None = None,
    bandwidth: float | None = None,
    latency: float = 0.0,
    forward: bool = False,
    devices: Sequence[str] | None = None,
) -> Topology:
    """Join islands, which may differ in kind, size, links and devices, by a network between them.

    Each device of `outer` gives its place to a network adapter of an island, first island first. What
    two devices of an island exchange stays inside. What leaves goes straight to the device's own
    adapter, and arrives likewise.

    Parameters
    ----------
    islands : sequence of Topology
        Ranks follow island by island.
    outer : Topology
        As many ranks as there are adapters.
    nics : int or sequence of int, optional
        Adapters per island. By default those that the islands have (vertices of kind "nic", as in
        machines that were read from what they print); where not all have some, one per device or one
        per island, whichever makes as many as `outer` has ranks.
    bandwidth : float, optional
        Between a device and its adapter; by default what the adapter's links to the network carry.
        Islands with adapters of their own have that link already [B/s].
    latency : float, default 0
        Of that link [s].
    forward : bool, default False
        Whether devices pass on what enters or leaves the island by another's adapter, where that makes
        the way outside shorter (NCCL's PXN).
    devices : sequence of str, optional
        Model of each island's devices, kept as their attribute `device`.

    Returns
    -------
    Topology
        Routed by equal-cost multipath. Vertices of island i other than devices are "island{i}.name".

    Raises
    ------
    InputError
        A number of adapters that does not fit, or a value out of range.
    """
    if not islands:
        raise InputError("mixed: islands: [] (legal: one island or more)")
    if devices is not None and len(devices) != len(islands):
        raise InputError(f"mixed: devices: {len(devices)} names (legal: one for each of {len(islands)} islands)")
    own = [[number for number, kind in enumerate(island.kinds) if kind == "nic"] for island in islands]
    checks.links("mixed", outer.links + sum(island.links for island in islands))
    kept = nics is None and all(own)
    wanted = _adapters(islands, outer, nics, own if kept else None)
    # Ways are compared first by how often they pass an adapter, so that nothing leaves an island
    # without need; then by hops inside, so that each uses its own adapter; then by hops outside. With
    # forwarding, the last two change places.
    inner_most = max(len(island.vertices) * int(island.cost.max(initial=1)) for island in islands)
    outer_most = len(outer.vertices) * int(outer.cost.max(initial=1))
    inner_scale, outer_scale = (1, 1 + inner_most) if forward else (1 + outer_most, 1)
    passage = 1 + inner_most * inner_scale

    wiring = Wiring(f"{len(islands)} islands by {outer.name}")
    ports: list[int] = []
    for number, (island, count) in enumerate(zip(islands, wanted, strict=True)):
        more = {"island": number} if devices is None else {"island": number, "device": devices[number]}
        places = []
        for name, kind, transit, known in zip(
            island.vertices, island.kinds, island.transit.tolist(), island.attributes, strict=True
        ):
            if kind == "device":
                places.append(wiring.device(transit or forward, **{**known, **more}))
            else:
                places.append(wiring.vertex(f"island{number}.{name}", kind, transit, **{**known, "island": number}))
        touches = np.isin(island.source, own[number]) | np.isin(island.target, own[number])
        wiring.include(island, places, island.cost * inner_scale + passage * touches)
        if kept:
            ports += [places[vertex] for vertex in own[number]]
            continue
        adapters = [wiring.vertex(f"nic{len(ports) + k}", "nic", island=number) for k in range(count)]
        for device, adapter in shares(island.ranks, count):
            port = len(ports) + adapter
            rate = float(outer.bandwidth[outer.source == port].sum()) if bandwidth is None else bandwidth
            checks.link("mixed: nic", rate, latency)
            wiring.join(places[device], adapters[adapter], rate, latency, cost=passage)
        ports += adapters
    switches = []
    for vertex in range(outer.ranks, len(outer.vertices)):
        kind, name = outer.kinds[vertex], outer.vertices[vertex]
        name = f"outer.{name}" if kind == "nic" else name
        switches.append(wiring.vertex(name, kind, bool(outer.transit[vertex]), **outer.attributes[vertex]))
    leaves, enters = (ends < outer.ranks for ends in (outer.source, outer.target))
    # Where devices of the outer network pass things on, as in a ring, so do the adapters in their place.
    relays = np.append(outer.transit[: outer.ranks], False)
    port = (leaves & ~relays[np.minimum(outer.source, outer.ranks)]).astype(np.int8)
    port -= enters & ~relays[np.minimum(outer.target, outer.ranks)]
    wiring.include(outer, ports + switches, outer.cost * outer_scale, port)
    return wiring.topology()


def _adapters(
    islands: Sequence[Topology], outer: Topology, nics: int | Sequence[int] | None, own: Sequence[Sequence[int]] | None
) -> list[int]:
    """Adapters of each island."""
    if nics is not None:
        wanted = [nics] * len(islands) if isinstance(nics, int) else list(nics)
        if len(wanted) != len(islands):
            raise InputError(
                f"mixed: nics: {len(wanted)} numbers (legal: one, or one for each of {len(islands)} islands)"
            )
        for count in wanted:
            checks.count("mixed: nics", count)
        choices = [wanted]
    elif own is not None:
        choices = [[len(each) for each in own]]
    else:
        choices = [[island.ranks for island in islands], [1] * len(islands)]
    for wanted in choices:
        if sum(wanted) == outer.ranks:
            return wanted
    legal = " or ".join(str(sum(wanted)) for wanted in choices)
    raise InputError(f"mixed: outer: {outer.ranks} ranks for the islands' adapters (legal: {legal})")
