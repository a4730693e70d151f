"""Chunks of tokens on their way while others are computed.

Tutel (arXiv 2206.03382, section 3.2) and FasterMoE before it (PPoPP 2022): the tokens of a rank are cut into parts;
while experts work on one, the next is on its way there and the one before on its way back. Each part pays its own
launches, fixed costs of the exchange, and products that fill the device less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ...blocks import Exchange, Experts
from ...build import Builder
from ...dispatch import back, beside, copies, levels
from ...kernels import Kernel
from ...split import part_of_experts
from .. import technique


@technique(family="moe", paper="Tutel, arXiv 2206.03382", needs="software only")
def tutel(
    core: Experts, build: Builder, *, degree: int = 4, exchange: Literal["hierarchical", "flat"] = "hierarchical"
) -> Iterable[Kernel | Exchange]:
    """Chunk i is computed while chunk i + 1 arrives and chunk i - 1 leaves.

    Parameters
    ----------
    core : Experts
    build : Builder
    degree : int
        Chunks.
    exchange : str
        "hierarchical" (every copy, between nodes and then inside them) or "flat".
    """
    chunk = part_of_experts(core, degree, build)
    way = levels(chunk, build, once=False) if exchange == "hierarchical" else copies(chunk, build)
    home, work = back(chunk, way), chunk.work
    long = sum(isinstance(item, Kernel) for item in work)
    found: list[Kernel | Exchange] = [*core.shared, *way]
    for index in range(degree):
        if index + 1 < degree:
            found += beside(way, long)
        if index:
            found += beside(home, long)
        found += work
    return (*found, *home)
