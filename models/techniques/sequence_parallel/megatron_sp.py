"""Megatron's sequence parallelism: the ranks divide heads and matrices too, and gather sequences before each block.

arXiv 2205.05198: what would be context-parallel ranks become tensor-parallel ones. Every block gathers its input
over all of them and scatters its sums: 4 N h elements a layer and direction whatever the number of ranks, where an
all-to-all's share falls with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...attention import beside
from ...blocks import Attend
from ...build import Builder, Handle
from ...plan import Plan
from .. import technique


def divided_by_heads(plan: Plan) -> Plan:
    """The plan with context-parallel ranks as tensor-parallel ones."""
    tp = plan.tp * plan.cp
    etp = tp if plan.ep == 1 else plan.etp
    return replace(plan, tp=tp, cp=1, etp=etp, sequence_parallel=tp > 1)


def none_left(heads: Any, cp: Any, **_: Any) -> Any:
    """A plan that is not made anew has no context-parallel ranks."""
    return np.equal(cp, 1)


@technique(
    family="sequence_parallel",
    paper="Korthikanti et al., arXiv 2205.05198",
    needs="query heads that tp x cp divides",
    replan=divided_by_heads,
    shares=none_left,
)
def megatron_sp(core: Attend, build: Builder, after: Handle) -> Handle:
    """Attention itself is whole: the plan has no context-parallel ranks left."""
    return beside(core, build, after)
