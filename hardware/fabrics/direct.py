"""Networks without switches: devices joined to each other, which pass messages on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import InputError
from ..topology import Topology
from ..wiring import Duplex, Wiring
from . import checks
from .routers import DimensionOrder


def full_mesh(ranks: int, bandwidth: float, latency: float, duplex: Duplex = "full") -> Topology:
    """Every two devices joined by a link of their own.

    Parameters
    ----------
    ranks : int
        1 or more.
    bandwidth : float
        Of one link, per direction [B/s]; a device has `ranks` - 1 of them.
    latency : float
        Of one link [s].
    duplex : {"full", "half"}
        "half" where the directions of a link share its bandwidth.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        A value out of range.
    """
    checks.count("full_mesh: ranks", ranks)
    checks.links("full_mesh", ranks * (ranks - 1))
    checks.link("full_mesh", bandwidth, latency)
    wiring = Wiring(f"full mesh of {ranks}")
    devices = wiring.devices(ranks)
    for a, b in itertools.combinations(devices, 2):
        wiring.join(a, b, bandwidth, latency, duplex)
    return wiring.topology()


def ring(ranks: int, bandwidth: float, latency: float, duplex: Duplex = "full") -> Topology:
    """Each device joined to the next, the last to the first.

    Messages take the shorter way round; over exactly half of the ring, every other one each way. Two
    devices are joined once. Parameters and errors as of `full_mesh`; a device has two links.
    """
    checks.count("ring: ranks", ranks)
    checks.link("ring", bandwidth, latency)
    return torus((ranks,), bandwidth, latency, duplex)


def torus(shape: Sequence[int], bandwidth: float, latency: float, duplex: Duplex = "full") -> Topology:
    """A grid of any number of dimensions, each of which closes to a ring.

    Parameters
    ----------
    shape : sequence of int
        Devices along each dimension; the last one varies fastest with the rank. A dimension of two is
        joined once, one of one not at all.
    bandwidth : float
        Of one link, per direction [B/s]; a device has two per dimension.
    latency : float
        Of one link [s].
    duplex : {"full", "half"}

    Returns
    -------
    Topology
        Routed dimension by dimension (`DimensionOrder`).

    Raises
    ------
    InputError
        A value out of range.
    """
    ranks = 1
    for size in shape:
        ranks *= size
        checks.count("torus: shape", size)
        checks.count(f"torus: shape: {'x'.join(map(str, shape))}: devices", ranks)
    if not shape:
        raise InputError("torus: shape: [] (legal: one number or more)")
    checks.link("torus", bandwidth, latency)
    name = f"ring of {ranks}" if len(shape) == 1 else f"torus of {'x'.join(map(str, shape))}"
    checks.links("torus", 2 * ranks * len(shape))
    wiring = Wiring(name)
    table: list[tuple[int, int, int, int]] = []  # rank, dimension, way (0 up, 1 down), link
    places = list(itertools.product(*map(range, shape)))
    for place in places:
        wiring.device(place=place)
    for rank, place in enumerate(places):
        stride = 1
        for dimension in reversed(range(len(shape))):
            size = shape[dimension]
            up = rank + (1 if place[dimension] + 1 < size else 1 - size) * stride
            if size > 2 or (size == 2 and place[dimension] == 0):
                there, back = wiring.join(rank, up, bandwidth, latency, duplex)
                table += [(rank, dimension, 0, there), (up, dimension, 1, back)]
                if size == 2:  # either way round is the one cable
                    table += [(rank, dimension, 1, there), (up, dimension, 0, back)]
            stride *= size
    return wiring.topology(DimensionOrder.of(shape, table))
