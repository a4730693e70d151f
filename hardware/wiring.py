"""Putting a network together, cable by cable, before it is a `Topology`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .routing import Ecmp
from .topology import Router, Topology

Duplex: TypeAlias = Literal["full", "half"]


class Wiring:
    """A network while it is put together, cable by cable.

    Vertices and links are numbered as they are added; `topology` moves the devices to the front.

    Parameters
    ----------
    name : str

    Examples
    --------
    >>> wiring = Wiring("pair")
    >>> a, b = wiring.devices(2)
    >>> wiring.join(a, b, bandwidth=50e9, latency=1e-6)
    (0, 1)
    >>> wiring.topology().paths(0, 1).tolist()
    [[0]]
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._vertices: list[tuple[str, str, bool, dict[str, Any]]] = []
        self._links: list[tuple[int, int, float, float, int, int, int]] = []
        self._ranks = self._resources = 0

    def vertex(self, name: str, /, kind: str = "switch", transit: bool = True, **attributes: Any) -> int:
        """Add a vertex and return its number here."""
        self._vertices.append((name, kind, transit, attributes))
        return len(self._vertices) - 1

    def devices(self, count: int, transit: bool = True, **attributes: Any) -> list[int]:
        """Add the next ranks, which by default pass on what is not for them."""
        return [self.device(transit, **attributes) for _ in range(count)]

    def device(self, transit: bool = True, **attributes: Any) -> int:
        """Add the next rank and return its number here."""
        self._ranks += 1
        return self.vertex(f"gpu{self._ranks - 1}", "device", transit, **attributes)

    def join(
        self,
        a: int,
        b: int,
        bandwidth: float,
        latency: float,
        duplex: Duplex = "full",
        back_bandwidth: float | None = None,
        cost: int = 1,
        port: bool = False,
    ) -> tuple[int, int]:
        """Add a cable and return its two links, from `a` to `b` and back.

        Parameters
        ----------
        a, b : int
            Vertices, by what `vertex` returned.
        bandwidth : float
            Of each direction, or of both together when half duplex [B/s].
        latency : float
            Seconds.
        duplex : {"full", "half"}
        back_bandwidth : float, optional
            From `b` to `a`, where it differs [B/s].
        cost : int, default 1
            What routing counts for it.
        port : bool, default False
            Whether it is a port of the adapter `a`, which passes nothing on from port to port.

        Raises
        ------
        ValueError
            A bandwidth that is not above 0, a negative latency, a cost below 1, or a half-duplex link
            with two bandwidths.
        """
        back = bandwidth if back_bandwidth is None else back_bandwidth
        if not (0 < bandwidth < np.inf and 0 < back < np.inf and 0 <= latency < np.inf and cost >= 1):
            raise ValueError(f"bandwidth {bandwidth}, {back}, latency {latency}, cost {cost} of a link")
        if duplex == "half" and back != bandwidth:
            raise ValueError("a half-duplex link has one bandwidth")
        first = self._resources
        second = first if duplex == "half" else first + 1
        self._resources = second + 1
        self._links.append((a, b, bandwidth, latency, first, cost, int(port)))
        self._links.append((b, a, back, latency, second, cost, -int(port)))
        return len(self._links) - 2, len(self._links) - 1

    def include(
        self, part: Topology, vertices: Sequence[int], cost: NDArray[np.int64], port: NDArray[np.int8] | None = None
    ) -> None:
        """Add the working links of a topology.

        Parameters
        ----------
        part : Topology
            Its router is left behind.
        vertices : sequence of int
            Which vertices here are its vertices.
        cost : ndarray of int, shape (links,)
            What routing counts for each of its links here.
        port : ndarray of int, shape (links,), optional
            Which of its links are ports here; by default those that are ports there.
        """
        ports = part.port if port is None else port
        resources: dict[int, int] = {}
        for link in np.flatnonzero(~part.failed).tolist():
            resource = resources.setdefault(int(part.resource[link]), self._resources + len(resources))
            ends = vertices[part.source[link]], vertices[part.target[link]]
            speed = float(part.bandwidth[link]), float(part.latency[link])
            self._links.append((*ends, *speed, resource, int(cost[link]), int(ports[link])))
        self._resources += len(resources)

    def topology(self, router: Router | None = None) -> Topology:
        """Finish.

        Parameters
        ----------
        router : callable, optional
            By default shortest paths, among equal ones by a hash of the flow (`routing.Ecmp`).
        """
        kinds = [kind for _, kind, _, _ in self._vertices]
        order = sorted(range(len(kinds)), key=lambda number: kinds[number] != "device")
        vertices = [self._vertices[number] for number in order]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        columns = zip(*self._links, strict=True) if self._links else ((),) * 7
        source, target, bandwidth, latency, resource, cost, port = columns
        return Topology(
            name=self.name,
            ranks=self._ranks,
            vertices=tuple(vertex[0] for vertex in vertices),
            kinds=tuple(vertex[1] for vertex in vertices),
            attributes=tuple(vertex[3] for vertex in vertices),
            transit=np.array([vertex[2] for vertex in vertices], dtype=bool),
            source=place[np.array(source, dtype=np.int64)],
            target=place[np.array(target, dtype=np.int64)],
            bandwidth=np.array(bandwidth, dtype=float),
            latency=np.array(latency, dtype=float),
            resource=np.array(resource, dtype=np.int64),
            cost=np.array(cost, dtype=np.int64),
            port=np.array(port, dtype=np.int8),
            failed=np.zeros(len(source), dtype=bool),
            router=Ecmp() if router is None else router,
        )
