"""A picture of a fabric: levels of vertices, links as wide as they are fast, coloured by load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..hardware.topology import Topology

_COLOURS = {"device": "tab:blue", "nic": "tab:green"}
_MOST_NAMED = 40


def draw_topology(topology: Topology, load: NDArray[np.float64] | None = None) -> Figure:
    """Draw a fabric.

    Parameters
    ----------
    topology : Topology
    load : numpy.ndarray, optional
        Of each resource, over its capacity, of shape (resources,); colours the links.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import networkx
    from matplotlib.figure import Figure

    graph = topology.graph().to_undirected()
    near = networkx.multi_source_dijkstra_path_length(
        graph, {f"gpu{rank}" for rank in range(topology.ranks)}, weight=None
    )
    level = {name: near.get(name, 0) for name in graph}
    if len(set(level.values())) > 1:
        # Each vertex above the mean of what hangs below it, so that few links cross.
        place: dict[str, float] = {f"gpu{rank}": float(rank) for rank in range(topology.ranks)}
        for height in sorted(set(level.values()))[1:]:
            row = [name for name in graph if level[name] == height]
            want = {
                name: float(np.mean([place[n] for n in graph[name] if n in place and level[n] < height] or [0.0]))
                for name in row
            }
            row.sort(key=lambda name: want[name])
            for i, name in enumerate(row):
                place[name] = (i + 0.5) / len(row) * topology.ranks - 0.5
        position: Any = {name: (place[name], float(level[name])) for name in graph}
    else:
        position = networkx.circular_layout(graph)
    figure = Figure(figsize=(max(5.0, min(16.0, 0.45 * topology.ranks)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    fastest = float(topology.bandwidth.max())
    edges = list(graph.edges(data=True))
    widths = [0.4 + 2.2 * data["bandwidth"] / fastest for _, _, data in edges]
    colour: Any = "0.65"
    if load is not None:
        index = {name: number for number, name in enumerate(topology.vertices)}
        known: dict[tuple[int, int], float] = {}
        for link in range(topology.links):
            ends = int(topology.source[link]), int(topology.target[link])
            pair = (min(ends), max(ends))
            known[pair] = max(known.get(pair, 0.0), float(load[topology.resource[link]]))
        colour = [known[min(index[a], index[b]), max(index[a], index[b])] for a, b, _ in edges]
    shades: dict[str, Any] = {} if load is None else {"edge_cmap": _map(), "edge_vmin": 0.0}
    drawn: Any = networkx.draw_networkx_edges(
        graph, position, ax=axes, edgelist=[(a, b) for a, b, _ in edges], width=widths, edge_color=colour,
        **shades,
    )  # fmt: skip
    kinds = networkx.get_node_attributes(graph, "kind")
    networkx.draw_networkx_nodes(
        graph, position, ax=axes, node_size=120 if len(graph) <= _MOST_NAMED else 25,
        node_color=[_COLOURS.get(kinds[name], "0.35") for name in graph],
    )  # fmt: skip
    if len(graph) <= _MOST_NAMED:
        below = {name: (x, y - 0.12) for name, (x, y) in position.items()}
        names = networkx.draw_networkx_labels(graph, below, ax=axes, font_size=7, verticalalignment="top")
        for text in names.values():
            text.set_clip_on(False)
    if load is not None:
        figure.colorbar(drawn, ax=axes, label="load over capacity")
    axes.set_title(f"{topology.name}; width by bandwidth")
    axes.margins(0.05, 0.15)
    axes.set_axis_off()
    return figure


def _map() -> object:
    import matplotlib as mpl

    return mpl.colormaps["Reds"]
