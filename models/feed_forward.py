"""MLPs and mixtures of experts as kernels of one rank; a base of `Layers`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .architecture import Transformer
from .blocks import Experts, Work
from .gradients import Gradients
from .kernels import Kernel, Kernels
from .plan import Division
from .routing.known import Routing


class FeedForward(Gradients):
    """Products of the half of a layer that has no attention.

    Attributes
    ----------
    model : Transformer
    kernels : Kernels
    division : Division
    routing : Routing
        What is known of the experts tokens go to.
    """

    model: Transformer
    kernels: Kernels
    division: Division
    routing: Routing

    def product(self, name: str, m: Any, n: Any, k: Any, groups: Any = 1) -> list[Kernel]:
        """A product, and the conversion of its left operand to a narrow format before."""
        make = self.kernels
        before = make.quantise(groups * m * k) if make.dtype != make.wide else ()
        return [*before, make.gemm(name, m, n, k, groups)]

    def feed_forward(
        self, rows: Any, width: Any, groups: Any = 1, name: str = "mlp", outer: int | None = None
    ) -> list[Kernel]:
        """Two products with an activation between.

        Parameters
        ----------
        rows : float
            Of all groups together.
        width : float
            Inner width on this rank.
        groups : float
            Experts that have rows.
        name : str
        outer : int, optional
            Width of a row; default the residual stream's.
        """
        make, fan = self.kernels, 2 if self.model.gated else 1
        outer = self.model.hidden if outer is None else outer
        per_group = rows / groups
        return [
            *self.product(f"{name} up", per_group, fan * width, outer, groups),
            *make.elementwise("activation", rows * width, rows, fan + 1),
            *self.product(f"{name} down", per_group, outer, width, groups),
        ]

    def mixture(self, rows: Any, query: Any) -> list[Work]:
        """Router, experts, and what carries tokens between them.

        Experts that are tensor-parallel inside an expert-parallel group get the copies of all of their
        tensor-parallel ranks, gathered after the way there, and scatter the partial sums before the way back.

        Parameters
        ----------
        rows : float
            Tokens that a rank sends to experts.
        query : float
            New tokens of a sequence.
        """
        model, make, division, routing = self.model, self.kernels, self.division, self.routing
        width, top_k = model.expert_width, model.experts_per_token
        padding = routing.padding
        copies = rows * top_k * padding
        found: list[Work] = [make.gemm("router", rows, model.experts, model.hidden, wide=True)]
        if model.bottleneck:
            found += self.product("projection down", rows, model.bottleneck, model.hidden)
        found += make.elementwise("dispatch", copies * width, rows, 2)
        shared: list[Kernel] = []
        if model.shared_experts:
            inner = model.shared_width / division.shared
            shared = self.feed_forward(rows, inner, name="shared expert")
        among = self._gathers()
        computed = copies * np.where(among, division.etp, 1)[()]
        load = routing.load(division.ep)
        products = self.feed_forward(
            computed * load, model.expert_ffn / division.etp, self.touched(rows), "expert", width
        )
        found.append(
            Experts(
                tokens=rows,
                query=query,
                top_k=top_k,
                count=model.experts,
                width=width,
                element=make.size,
                products=tuple(products),
                shared=tuple(shared),
                load=load,
                padding=padding,
                routing=routing,
                gathered=np.where(among, computed * width * make.size, 0.0)[()],
            )
        )
        found += make.elementwise("combine", copies * width, rows, 2)
        if model.bottleneck:
            found += self.product("projection up", rows, model.hidden, model.bottleneck)
        return found

    def touched(self, rows: Any) -> Any:
        """Expected number of a rank's experts that at least one token of its group picks; all where they are padded.

        Parameters
        ----------
        rows : float
            Tokens that each rank sends.
        """
        model, division = self.model, self.division
        own = model.experts / division.ep
        if self.routing.capacity is not None:
            return own
        share = model.experts_per_token / model.experts
        everyone = rows * division.ep * np.where(self._gathers(), division.etp, 1)[()]
        return own * (1 - (1 - share) ** everyone)

    def _gathers(self) -> Any:
        """Whether experts are divided over tensor-parallel ranks that have tokens of their own each."""
        return np.logical_and(np.greater(self.division.ep, 1), np.greater(self.division.etp, 1))
