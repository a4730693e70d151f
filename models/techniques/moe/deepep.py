"""Dispatch and combine by kernels made for them instead of a library's all-to-all.

DeepEP, as DeepSeek-V3 runs it (arXiv 2412.19437, section 3.2.2): a token goes once to a node and once to a rank,
copied by a few compute units; low-latency kernels send each copy straight to its expert, for decoding. Tokens may
leave in fp8; results come back in bf16 and are added up on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ...blocks import Exchange, Experts
from ...build import Builder
from ...dispatch import beside, expert_kernels
from ...kernels import Kernel
from .. import technique


@technique(family="moe", paper="DeepEP in DeepSeek-V3, arXiv 2412.19437", needs="software only")
def deepep(
    core: Experts,
    build: Builder,
    *,
    kernels: Literal["normal", "low_latency", "elastic"] = "normal",
    tokens: Literal["auto", "fp8", "bf16"] = "auto",
    overlap: Literal["none", "shared"] = "none",
) -> Iterable[Kernel | Exchange]:
    """One kernel there, one back.

    Parameters
    ----------
    core : Experts
    build : Builder
    kernels : str
        normal | low_latency | elastic (the second version, which takes few compute units).
    tokens : str
        Format on the way there; "auto" is fp8 where products are in a narrow format.
    overlap : str
        "shared" runs shared experts beside the way there.
    """
    narrow = None if tokens == "auto" else tokens == "fp8"
    found = expert_kernels(core, build, kernels.replace("_", " "), narrow)
    way, home = found[:1], found[1:] if core.returned else ()
    if overlap == "shared":
        return (*beside(way, len(core.shared)), *core.shared, *core.work, *home)
    return (*core.shared, *way, *core.work, *home)
