"""What both readers know of machines: generations of links, and how NVLinks are laid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import read_text
from ..wiring import Wiring

# Dearer than any way over NVLink, so that devices joined by one do not take the bus.
BUS_COST = 8


class Generation(NamedTuple):
    """Links of a generation of GPUs.

    Attributes
    ----------
    nvlink : float
        Of one NVLink, per direction, before overheads [B/s].
    nvlinks : int
        Most a GPU has.
    pcie : float
        Of 16 lanes, per direction, before encoding [B/s].
    socket : float
        Between the two sockets of a host of the time, as NCCL counts it [B/s].
    """

    nvlink: float
    nvlinks: int
    pcie: float
    socket: float


# By compute capability. NVLink: NVIDIA's data sheets (per link and direction); most links: NCCL,
# src/graph/topo.h. PCIe: transfer rate of the generation the GPU has, times 16 lanes. Sockets: NCCL,
# topo.h, for Broadwell, Skylake, AMD Rome, Sapphire and Emerald Rapids; which goes with which GPU is assumed.
GENERATIONS: Mapping[int, Generation] = {
    60: Generation(20e9, 4, 16e9, 6e9),
    70: Generation(25e9, 6, 16e9, 10e9),
    80: Generation(25e9, 12, 32e9, 16e9),
    86: Generation(14.0625e9, 4, 32e9, 16e9),
    90: Generation(25e9, 18, 64e9, 22e9),
    100: Generation(50e9, 18, 64e9, 40e9),
}


def generation(sm: int, where: str) -> Generation:
    """Newest known generation that is not newer than a compute capability such as 90."""
    known = [number for number in GENERATIONS if number <= sm]
    if not known or sm > 999:
        raise InputError(f"{where}: sm: {sm} (legal: {min(GENERATIONS)} to 999)")
    return GENERATIONS[max(known)]


def text_of(what: str | Path) -> tuple[str, str]:
    """Text, and what to call it in errors: of a file, or what is pasted if it has more than one line."""
    if isinstance(what, str) and "\n" in what:
        return what, "pasted text"
    return read_text(what), str(what)


def join_nvlinks(
    wiring: Wiring,
    devices: list[int],
    counts: Mapping[tuple[int, int], int],
    rate: float,
    latency: float,
    most: int,
    where: str,
) -> None:
    """Lay NVLinks that are known by their number between pairs.

    Where all devices of a group have as many to each other as they have in all, these lead to a switch.

    Parameters
    ----------
    wiring : Wiring
    devices : list of int
        Vertices of the ranks.
    counts : mapping
        Number of links between ranks (a, b), a < b.
    rate, latency : float
        Of one link [B/s], [s].
    most : int
        Links a device can have.
    where : str
        For errors.

    Raises
    ------
    InputError
        More links than a device can have, unless a switch explains them.
    """
    for number, group in enumerate(_groups(len(devices), counts)):
        pairs = [(a, b) for a in group for b in group if a < b]
        widths = {counts.get(pair, 0) for pair in pairs}
        total = {rank: sum(counts.get((min(rank, b), max(rank, b)), 0) for b in group if b != rank) for rank in group}
        worst = max(group, key=total.__getitem__)
        if len(widths) == 1 and total[worst] > most:
            switch = wiring.vertex(f"nvswitch{number}")
            for rank in group:
                wiring.join(devices[rank], switch, max(widths) * rate, latency)
        elif total[worst] > most:
            raise InputError(
                f"{where}: GPU{worst}: {total[worst]} NVLinks (legal: at most {most}, or equally many to all)"
            )
        else:
            for a, b in pairs:
                if counts.get((a, b)):
                    wiring.join(devices[a], devices[b], counts[a, b] * rate, latency)


def _groups(ranks: int, counts: Mapping[tuple[int, int], int]) -> list[list[int]]:
    """Ranks that NVLinks join, directly or not; those with none left out."""
    group = list(range(ranks))
    for a, b in counts:
        low, high = sorted((group[a], group[b]))
        group = [low if each == high else each for each in group]
    found: dict[int, list[int]] = {}
    for rank, name in enumerate(group):
        found.setdefault(name, []).append(rank)
    return [members for members in found.values() if len(members) > 1]
