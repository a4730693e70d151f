"""BigMac: tokens go down to a narrow width once, travel and are computed there, and come up once.

arXiv 2502.16927: a fine-grained expert takes a token at full width, narrow inside; so the all-to-alls carry it at
full width, k times. BigMac descends before the first all-to-all, by one projection all experts share, and ascends
after the second: descend, communicate, communicate, ascend. Experts are narrow outside and wide inside instead, with
as many parameters and FLOPs; the projections add 2 r h^2 parameters a layer. The router reads the full width.

The model is another one, to be trained so; how tokens travel is left to the other techniques. What it learns is
not modelled.
"""

from __future__ import annotations

from dataclasses import replace

from ....hardware.errors import InputError
from ...architecture import Transformer
from .. import technique


@technique(
    family="moe",
    slot="model",
    paper="BigMac, arXiv 2502.16927",
    needs="a model trained with experts of that shape",
)
def bigmac(model: Transformer, *, r: float = 0.25) -> Transformer:
    """Model with experts that work on a part of the width.

    Parameters
    ----------
    model : Transformer
    r : float
        Width on the way to experts over that of the residual stream.
    """
    width = round(r * model.hidden)
    if width < 1:
        raise InputError(f"techniques: bigmac.r: {r} of {model.hidden} elements (legal: {1 / model.hidden:.2g} to 1)")
    if model.bottleneck:
        raise InputError(f"techniques: bigmac: {model.name} has a bottleneck already (legal: a model without one)")
    inner = max(1, round(model.expert_ffn * model.hidden / width))
    # Shared experts work where the token is, at full width.
    return replace(model, bottleneck=width, expert_ffn=inner, shared_ffn=model.shared_ffn or model.expert_ffn)
