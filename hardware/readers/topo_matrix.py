"""Reader of the matrix that `nvidia-smi topo -m` prints."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from .machine import BUS_COST, generation, join_nvlinks, text_of

# What two entries of the matrix have in common, nearest first: one PCIe switch, several, the host
# bridge, the socket (NUMA node), nothing but the machine.
KINDS = ("PIX", "PXB", "PHB", "NODE", "SYS")
_LEGAL = "X, NV#, PIX, PXB, PHB, NODE, SYS"
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GPU = re.compile(r"GPU\d+")
_NVLINKS = re.compile(r"NV([1-9]\d?)")
_MOST = 1024  # columns; machines have some tens


class Matrix(NamedTuple):
    """What the matrix says.

    Attributes
    ----------
    where : str
        File, for errors.
    names : list of str
        Columns: GPUs and adapters.
    lines : list of int
        Line of the text each row stands in.
    cells : list of list of str
        Kinds, a row and a column for each name.
    numa : list of str
        NUMA affinity of each row, "" where none is given.
    legend : dict
        What the NIC legend calls an adapter, such as "mlx5_0" of "NIC0".
    """

    where: str
    names: list[str]
    lines: list[int]
    cells: list[list[str]]
    numa: list[str]
    legend: dict[str, str]


def read_topo_matrix(
    what: str | Path,
    sm: int = 90,
    nvlink: float | None = None,
    pcie: float | None = None,
    socket: float | None = None,
    latency: float = 0.0,
    forward: bool = False,
) -> Topology:
    """Machine as `nvidia-smi topo -m` prints it.

    The matrix gives kinds of connections only; bandwidths come from the generation of the GPUs. Between
    GPUs with NVLinks it does not say how the bus joins them; that follows from adapters they share and
    from their NUMA affinity, and with neither they count as behind sockets of their own.

    Parameters
    ----------
    what : str or Path
        File, or the printed text itself.
    sm : int, default 90
        Compute capability of the GPUs, 90 for Hopper.
    nvlink : float, optional
        Of one NVLink, per direction; by default the generation's [B/s].
    pcie : float, optional
        Of each PCIe link, per direction; by default the generation's 16 lanes [B/s].
    socket : float, optional
        Between two sockets, per direction; by default that of hosts of the time [B/s].
    latency : float, default 0
        Of every link [s]. Nothing printed says it, and profiles of collectives have their own.
    forward : bool, default False
        Whether GPUs pass on what is for others, where they are joined by NVLinks in part.

    Returns
    -------
    Topology
        Ranks in order of columns. Vertices "nic0", ... in order of columns, with their name as the
        attribute `name`; "pcie0", "bridge0", "socket0", "nvswitch0".

    Raises
    ------
    InputError
        Anything that is not such a matrix: one line with file, line and column.
    """
    matrix = parse(what)
    links = generation(sm, matrix.where)
    bus = links.pcie if pcie is None else pcie
    gpus = [number for number, name in enumerate(matrix.names) if _GPU.fullmatch(name)]
    clusters = _clusters(matrix)
    wiring = Wiring(Path(what).stem if matrix.where == str(what) else "machine")
    # The hierarchy from the top: at each level, the vertex of each cluster.
    sockets = {name: wiring.vertex(f"socket{i}", "socket") for i, name in enumerate(dict.fromkeys(clusters["NODE"]))}
    for a, b in itertools.combinations(sockets.values(), 2):
        wiring.join(a, b, links.socket if socket is None else socket, latency, cost=BUS_COST)
    above = [sockets[name] for name in clusters["NODE"]]
    switches = itertools.count()
    for kind, lower in (("PHB", "PXB"), ("PXB", "PIX"), ("PIX", "")):
        members: dict[int, list[int]] = {}
        for number, name in enumerate(clusters[kind]):
            members.setdefault(name, []).append(number)
        for i, group in enumerate(members.values()):
            # Every device has a host bridge; a PCIe switch is there where it joins something.
            parts = {clusters[lower][number] for number in group} if lower else set(group)
            if kind == "PHB":  # has a root port for each part, so that they do not share a link to the socket
                vertex, rate = wiring.vertex(f"bridge{i}", "bridge"), bus * len(parts)
            elif len(parts) > 1 or (kind == "PIX" and _has_siblings(group, clusters)):
                vertex, rate = wiring.vertex(f"pcie{next(switches)}"), bus
            else:
                continue
            wiring.join(vertex, above[group[0]], rate, latency, cost=BUS_COST)
            for number in group:
                above[number] = vertex
    devices, adapters = [], itertools.count()
    for number, label in enumerate(matrix.names):
        if number in gpus:
            vertex = wiring.device(forward, name=label)
            devices.append(vertex)
        else:
            vertex = wiring.vertex(f"nic{next(adapters)}", "nic", name=matrix.legend.get(label, label))
        wiring.join(vertex, above[number], bus, latency, cost=BUS_COST)
    counts = {}
    for a, b in itertools.combinations(range(len(gpus)), 2):
        if match := _NVLINKS.fullmatch(matrix.cells[gpus[a]][gpus[b]]):
            counts[a, b] = int(match[1])
    join_nvlinks(
        wiring, devices, counts, links.nvlink if nvlink is None else nvlink, latency, links.nvlinks, matrix.where
    )
    return wiring.topology()


def parse(what: str | Path) -> Matrix:
    """Cells of the matrix, checked: complete, symmetric, of known kinds; arguments and errors as above."""
    text, where = text_of(what)
    rows = [_ESCAPE.sub("", line).split() for line in text.splitlines()]
    start = next((i for i, row in enumerate(rows) if row and _GPU.fullmatch(row[0])), None)
    if start is None:
        raise InputError(f"{where}: no matrix as of nvidia-smi topo -m: no line starts with GPU0")
    names = list(itertools.takewhile(lambda name: name not in ("CPU", "NUMA", "GPU"), rows[start]))
    if len(set(names)) < len(names) or len(names) > _MOST:
        raise InputError(f"{where}: line {start + 1}: columns stand twice, or are more than {_MOST}")
    if len(names) > 1 and (_NVLINKS.fullmatch(names[1]) or names[1] in ("X", *KINDS)):
        raise InputError(f"{where}: line {start + 1}: the line of columns above it is missing")
    found: dict[str, tuple[int, list[str]]] = {}
    for i in range(start + 1, len(rows)):
        if rows[i] and rows[i][0].startswith("Legend"):
            break
        if rows[i] and len(found) < len(names):
            _row(where, names, i + 1, rows[i], found)
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"{where}: no line for {missing[0]}, which is a column in line {start + 1}")
    legend = {row[0][:-1]: row[1] for row in rows[start:] if len(row) == 2 and re.fullmatch(r"NIC\d+:", row[0])}
    cells = [found[name][1][: len(names)] for name in names]
    lines = [found[name][0] for name in names]
    has_numa = "NUMA" in rows[start]
    # After the matrix: CPU affinity, then NUMA affinity.
    rest = [found[name][1][len(names) :] for name in names]
    numa = [cell[1] if has_numa and len(cell) > 1 and cell[1] != "N/A" else "" for cell in rest]
    matrix = Matrix(where, names, lines, cells, numa, legend)
    _check_symmetry(matrix)
    return matrix


def _row(where: str, names: list[str], line: int, row: list[str], found: dict[str, tuple[int, list[str]]]) -> None:
    """Add a row of the matrix to those found."""
    name, cells = row[0], row[1:]
    if name not in names:
        raise InputError(f"{where}: line {line}: {name!r:.40} is not a column (legal: {', '.join(names[:40])})")
    if name in found:
        raise InputError(f"{where}: line {line}: {name} stands twice, first in line {found[name][0]}")
    for column, name_there in enumerate(names):
        spot = f"{where}: line {line}, column {name_there}"
        if column >= len(cells):
            raise InputError(f"{spot}: missing (legal: {_LEGAL})")
        cell = cells[column]
        if cell not in ("X", *KINDS) and not _NVLINKS.fullmatch(cell):
            raise InputError(f"{spot}: {cell!r:.40} is not a connection (legal: {_LEGAL})")
        if (cell == "X") != (name == name_there):
            raise InputError(f"{spot}: {cell} (legal: X from each to itself, and only there)")
        if cell.startswith("NV") and not (_GPU.fullmatch(name) and _GPU.fullmatch(name_there)):
            raise InputError(f"{spot}: {cell} (legal: NV# between GPUs only)")
    found[name] = line, cells


def _check_symmetry(matrix: Matrix) -> None:
    for a, b in itertools.combinations(range(len(matrix.names)), 2):
        if matrix.cells[a][b] != matrix.cells[b][a]:
            raise InputError(
                f"{matrix.where}: line {matrix.lines[b]}, column {matrix.names[a]}: {matrix.cells[b][a]}, but "
                f"{matrix.cells[a][b]} the other way in line {matrix.lines[a]} (legal: the same both ways)"
            )


def _clusters(matrix: Matrix) -> dict[str, list[int]]:
    """For each kind but SYS, which of its clusters each name is in: those no farther than it from each other."""
    size = len(matrix.names)
    pairs = [
        (KINDS.index(matrix.cells[a][b]), a, b)
        for a, b in itertools.combinations(range(size), 2)
        if matrix.cells[a][b] in KINDS
    ]
    found, cluster = {}, list(range(size))
    for level, kind in enumerate(KINDS[:-1]):
        joins = [(a, b) for near, a, b in pairs if near == level]
        if kind == "NODE":  # GPUs of one NUMA node of which the matrix says nothing else
            apart = {(a, b) for near, a, b in pairs if near > level}
            for a, b in itertools.combinations(range(size), 2):
                if matrix.numa[a] and matrix.numa[a] == matrix.numa[b] and matrix.cells[a][b].startswith("NV"):
                    ours, theirs = ([i for i in range(size) if cluster[i] == cluster[end]] for end in (a, b))
                    if apart.isdisjoint((min(i, j), max(i, j)) for i in ours for j in theirs):
                        joins.append((a, b))
        for a, b in joins:
            low, high = sorted((cluster[a], cluster[b]))
            cluster = [low if each == high else each for each in cluster]
        found[kind] = list(cluster)
        for near, a, b in pairs:
            if near > level and cluster[a] == cluster[b]:
                raise InputError(
                    f"{matrix.where}: line {matrix.lines[a]}, column {matrix.names[b]}: {KINDS[near]}, but others "
                    f"that both are close to make it {kind} (legal: a tree of PCIe switches, bridges and sockets)"
                )
    return found


def _has_siblings(group: list[int], clusters: dict[str, list[int]]) -> bool:
    """Whether there are others beyond a PCIe switch, which then is there even for one device."""
    return sum(name == clusters["PXB"][group[0]] for name in clusters["PXB"]) > len(group)
