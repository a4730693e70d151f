"""A divided layer held against the whole one: outputs, gradients, and what was sent for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .ranks import Ranks
from .shapes import SEED

Layer = Callable[..., Tensor]
Share = Callable[[Tensor], Tensor]


def random(*shapes: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
    """The same normal numbers on every rank, in double precision.

    Parameters
    ----------
    *shapes : tuple of int
    scale : float
    """
    source = torch.Generator().manual_seed(SEED)
    return [scale * torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]


def compare(
    ranks: Ranks,
    divided: Layer,
    whole: Layer,
    inputs: Sequence[Tensor],
    outer: Tensor,
    shares: Sequence[Share],
    share: Share,
    added: Sequence[int] = (),
    backward: bool = True,
) -> dict[str, float]:
    """Run both forward, and backward; the largest differences, over the largest number there is.

    Parameters
    ----------
    ranks : Ranks
    divided : callable
        The layer of one rank, of its shares of the inputs.
    whole : callable
        The same layer undivided.
    inputs : sequence of Tensor
        Of the undivided layer: activations and weights.
    outer : Tensor
        Gradient of its output.
    shares : sequence of callable
        What this rank has of each input.
    share : callable
        What it has of the output.
    added : sequence of int
        Inputs that every rank has whole, and of whose gradients it has a summand; they are added up here, uncounted.
    backward : bool
        Whether there are gradients.

    Returns
    -------
    dict
        ``output`` and, where there are any, ``gradient``.
    """
    full = [x.to(ranks.device).requires_grad_() for x in inputs]
    expected = whole(*full)
    mine = [take(x.detach()).clone().requires_grad_() for take, x in zip(shares, full, strict=True)]
    ranks.ledger.direction = "forward"
    out = divided(*mine)
    if not backward:
        return {"output": difference(out, share(expected))}
    slopes = torch.autograd.grad(expected, full, outer.to(ranks.device))
    ranks.ledger.direction = "backward"
    found = list(torch.autograd.grad(out, mine, share(outer.to(ranks.device))))
    for index in added:
        found[index] = ranks.uncounted_sum(found[index])
    wrong = [difference(one, take(two)) for one, take, two in zip(found, shares, slopes, strict=True)]
    return {"output": difference(out, share(expected)), "gradient": max(wrong)}


def difference(one: Tensor, two: Tensor) -> float:
    """Largest difference over the largest number; infinite where shapes are unlike, or nothing but zeros expected."""
    if one.shape != two.shape or not bool(torch.isfinite(one).all()) or not bool(two.any()):
        return float("inf")
    return float((one.detach() - two.detach()).abs().max() / two.detach().abs().max())


def everything(x: Tensor) -> Tensor:
    """All of it."""
    return x


def applied(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """A differentiable function of torch, whose own call has no types."""
    return function.apply(*inputs)  # type: ignore[no-untyped-call]
