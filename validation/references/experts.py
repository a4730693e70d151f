"""Experts of a rank: all of some, or a part of each where tensor-parallel ranks divide them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu

from .compare import Share, everything
from .conjugate import conjugate, gathered, part, scattered
from .ranks import Ranks
from .shapes import Mixture
from .ways import Routing

Expert = Callable[[Tensor, Tensor, Tensor], Tensor]


def expert(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One expert."""
    return gelu(x @ up) @ down


def linear_expert(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One that keeps whole numbers whole."""
    return (x @ up).relu() @ down


def results_of(rows: Tensor, which: Tensor, up: Tensor, down: Tensor, act: Expert) -> Tensor:
    """Rows through their experts, in place."""
    out = torch.zeros_like(rows)
    for number in range(len(up)):
        mine = torch.nonzero(which == number).flatten()
        out = out.index_put((mine,), act(rows[mine], up[number], down[number]))
    return out


def plane(ranks: Ranks, shape: Mixture) -> Ranks:
    """Ranks that divide the experts: of those that divide each expert too, the ones of this one's place."""
    return ranks.among(range(ranks.rank % shape.etp, ranks.size, shape.etp))


def tensor_parallel(ranks: Ranks, shape: Mixture) -> Ranks:
    """Tensor-parallel ranks around this one, which are neighbours."""
    first = ranks.rank // shape.tp * shape.tp
    return ranks.among(range(first, first + shape.tp))


class Place(NamedTuple):
    """What a rank has of a layer.

    Parameters
    ----------
    rows : callable
        Of the tokens between layers.
    own : callable
        Of those, the ones it sends to experts.
    back : callable
        Results of `own` as `rows` has them.
    weights : tuple of callable
        Of first and second matrices of the experts.
    """

    rows: Share
    own: Share
    back: Share
    weights: tuple[Share, Share]


def place_of(ranks: Ranks, shape: Mixture) -> Place:
    """Tokens and weights of this rank.

    Parameters
    ----------
    ranks : Ranks
    shape : Mixture
    """
    (expert_rank, place), parts = divmod(ranks.rank, shape.etp), ranks.size // shape.etp

    def up(w: Tensor) -> Tensor:
        return w.chunk(parts)[expert_rank].chunk(shape.etp, 2)[place]

    def down(w: Tensor) -> Tensor:
        return w.chunk(parts)[expert_rank].chunk(shape.etp, 1)[place]

    if shape.scattered:
        return Place(lambda x: x.chunk(ranks.size)[ranks.rank], everything, everything, (up, down))
    around = tensor_parallel(ranks, shape)

    def rows(x: Tensor) -> Tensor:
        return x.chunk(ranks.size // shape.tp)[ranks.rank // shape.tp]

    own, back = (partial(conjugate, ranks=around, there=a, back=b) for a, b in ((part, gathered), (gathered, part)))
    return Place(rows, own, back, (up, down))


@dataclass(frozen=True)
class Divided:
    """Experts of a rank.

    Where they are divided, the copies of all tensor-parallel ranks are gathered before, and sums scattered behind.

    Parameters
    ----------
    ranks : Ranks
    shape : Mixture
    up, down : Tensor
        This rank's share of the weights.
    act : callable
    """

    ranks: Ranks
    shape: Mixture
    up: Tensor
    down: Tensor
    act: Expert

    def __call__(self, rows: Tensor, copies: Routing) -> Tensor:
        """Results of copies that have come to this rank."""
        which = copies.expert % copies.each
        if self.shape.etp == 1:
            return results_of(rows, which, self.up, self.down, self.act)
        around = tensor_parallel(self.ranks, self.shape)
        every = which.new_zeros((around.size, len(which)))
        every[around.rank] = which
        rows = conjugate(rows, around, gathered, scattered)
        sums = results_of(rows, around.uncounted_sum(every).flatten(), self.up, self.down, self.act)
        return conjugate(sums, around, scattered, gathered)
