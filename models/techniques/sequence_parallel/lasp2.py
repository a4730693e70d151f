"""LASP-2: every rank gathers the states of all, while it works within its own chunk.

arXiv 2502.07563, algorithms 2 and 4: one all-gather of a state of head_dim x value_dim for each head forward, and
one of its gradient backward, whatever the length of the sequence. The gather runs beside the attention within
the chunk, as the paper says; the released code gathers first (`overlap: no`). The paper counts traffic in steps;
in bytes each rank still receives the states of all others.
"""

from __future__ import annotations

from typing import Literal

from ....hardware.errors import InputError
from ...blocks import Attend
from ...build import Builder, Handle
from ...linear_attention import gathered
from .. import technique


@technique(
    family="sequence_parallel",
    paper="LASP-2, arXiv 2502.07563",
    needs="linear attention in every layer",
)
def lasp2(
    core: Attend, build: Builder, after: Handle, *, overlap: Literal["yes", "no"] = "yes", pieces: int = 1
) -> Handle:
    """States gathered under the work within the chunk, in one collective or in pieces."""
    only_linear("lasp2", core)
    return gathered(core, build, after, overlap == "yes", pieces)


def only_linear(name: str, core: Attend) -> None:
    """Refuse layers of softmax attention.

    Raises
    ------
    InputError
        Naming the technique for hybrids.
    """
    if not core.linear:
        raise InputError(
            f"techniques: {name} passes states of linear attention, and the model has layers of softmax attention "
            "(legal: a model with linear attention in every layer, or technique lasp2h)"
        )
