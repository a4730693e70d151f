"""Bound: tokens reach their experts at no cost."""

from __future__ import annotations

from collections.abc import Iterable

from ...blocks import Exchange, Experts
from ...build import Builder
from ...kernels import Kernel
from .. import technique


@technique(family="moe", paper="bound", needs="nothing could provide it")
def no_all_to_all(core: Experts, build: Builder) -> Iterable[Kernel | Exchange]:
    """Experts compute what they would, nothing travels."""
    return (*core.shared, *core.products)
