"""Sites around a hub, joined by wide-area lines that are faster down than up."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from . import checks


def wan_star(
    ranks: int,
    up: float | Sequence[float],
    down: float | Sequence[float],
    latency: float | Sequence[float],
) -> Topology:
    """Sites around a hub, which passes everything on.

    A site is one device here; `compose` puts whole islands in its place.

    Parameters
    ----------
    ranks : int
        Sites.
    up, down : float or sequence of float
        From a site to the hub, and from the hub to the site; one for all, or one each [B/s].
    latency : float or sequence of float
        Of a site's line, each way [s].

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        A value out of range, or a list of another length.
    """
    checks.count("wan_star: ranks", ranks)
    columns = []
    for name, value in (("up", up), ("down", down), ("latency", latency)):
        column = list(value) if isinstance(value, Sequence) else [value] * ranks
        if len(column) != ranks:
            raise InputError(f"wan_star: {name}: {len(column)} numbers (legal: one, or one for each of {ranks} ranks)")
        columns.append(column)
    wiring = Wiring(f"star of {ranks} sites")
    sites = wiring.devices(ranks, transit=False)
    hub = wiring.vertex("hub")
    for site, to_hub, to_site, delay in zip(sites, *columns, strict=True):
        checks.link("wan_star", to_hub, delay, "up ")
        checks.link("wan_star", to_site, delay, "down ")
        wiring.join(site, hub, to_hub, delay, back_bandwidth=to_site)
    return wiring.topology()
