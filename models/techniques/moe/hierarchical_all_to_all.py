"""Two all-to-alls instead of one: between nodes first, then inside them.

As in Tutel (arXiv 2206.03382, section 3.3) ranks of one place in their nodes exchange what goes to other nodes, in
few large messages, and links inside a node spread it. As in DeepSeek-V3 (arXiv 2412.19437, section 3.2.2) a token
may travel once to a node, however many of its experts are there, and once to each rank in it; with routing limited
to few nodes that bounds what crosses the network. On the way back nodes add up before they send.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ...blocks import Exchange, Experts
from ...build import Builder
from ...dispatch import back, beside, levels
from ...kernels import Kernel
from .. import technique


@technique(family="moe", paper="Tutel, arXiv 2206.03382; DeepSeek-V3, arXiv 2412.19437", needs="software only")
def hierarchical_all_to_all(
    core: Experts,
    build: Builder,
    *,
    once: Literal["yes", "no"] = "yes",
    overlap: Literal["none", "shared"] = "none",
) -> Iterable[Kernel | Exchange]:
    """Cross the network, spread inside the node, compute, and back.

    Parameters
    ----------
    core : Experts
    build : Builder
    once : str
        "yes" sends a token once to a node and rank, "no" every copy.
    overlap : str
        "shared" runs shared experts beside the way there.
    """
    way = levels(core, build, once == "yes")
    if overlap == "shared":
        return (*beside(way, len(core.shared)), *core.shared, *core.work, *back(core, way))
    return (*core.shared, *way, *core.work, *back(core, way))
