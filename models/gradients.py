"""Backward passes of blocks, and the forward work that is repeated for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .blocks import Attend, Block, Exchange, Experts, Work
from .kernels import QUANTISE, Kernel, Kernels

# A streaming kernel's backward reads the outer gradient besides.
GRADIENT_STREAMS = 1.5
COPY = "copies around the exchange"
ADJOINT = {
    "all_gather": "reduce_scatter",
    "reduce_scatter": "all_gather",
    "all_reduce": "all_reduce",
    "all_to_all": "all_to_all",
}


class Gradients:
    """Turns forward blocks into backward ones; a base of `Layers`.

    Attributes
    ----------
    kernels : Kernels
    """

    kernels: Kernels

    def backward(self, block: Block, again: tuple[Work, ...] = ()) -> Block:
        """Backward of a forward block: input gradients in reverse order, weight gradients deferred.

        The last kernel is the input gradient of the block's column-parallel GEMM, whose partial sums
        the ranks add up (Megatron-LM's conjugate operator f, arXiv 1909.08053 section 3).

        Parameters
        ----------
        block : Block
        again : tuple of Kernel
            Forward work to repeat first.
        """
        inputs = self.backward_kernels(block.kernels, weights=False)
        last = max(i for i, kernel in enumerate(inputs) if isinstance(kernel, Kernel) and kernel.shape is not None)
        inputs = (*inputs[:last], *inputs[last + 1 :], inputs[last])
        deferred: list[Kernel] = []
        for kernel in reversed(flattened(block.kernels)):
            if kernel.shape and not kernel.core:
                deferred += self._weight_gradient(kernel)
        # The input is gathered once more for the weight gradients, under the input gradients.
        regather = (
            (Exchange("all_gather", "tp", block.gather_bytes, covered=True),) if np.any(block.gather_bytes) else ()
        )
        kernels = (*again, *regather, *inputs)
        return replace(block, name=f"{block.name} backward", kernels=kernels, deferred=tuple(deferred))

    @staticmethod
    def saved(block: Block) -> Block:
        """What of a block makes activations that its backward pass reads: all but the last product."""
        last = max(
            i
            for i, item in enumerate(block.kernels)
            if isinstance(item, Experts) or (isinstance(item, Kernel) and item.shape)
        )
        kept, item = block.kernels[:last], block.kernels[last]
        if isinstance(item, Experts):
            inner = max(i for i, kernel in enumerate(item.products) if kernel.shape)
            kept = (*kept, replace(item, products=item.products[:inner], returned=False))
        return replace(block, kernels=kept, output_bytes=0.0)

    def repeated(self, block: Block) -> tuple[Work, ...]:
        """What selective recomputation runs again before the backward of a block."""
        if self.kernels.software.selective == "attention":  # Korthikanti et al., section 5
            return tuple(item for item in block.kernels if not isinstance(item, Exchange) and item.core)
        kernels = flattened(block.kernels)
        products = [kernel for kernel in kernels if kernel.shape and not kernel.core]
        kept = products[::2]
        return tuple(kernel for kernel in kernels if not kernel.core and kernel not in kept)

    def backward_kernels(self, kernels: tuple[Work, ...], weights: bool = True) -> tuple[Work, ...]:
        """Gradients of kernels in reverse order: of their inputs, and of their weights if asked."""
        found: list[Work] = []
        last: list[Work] = []
        for kernel in reversed(kernels):
            if isinstance(kernel, Attend):
                found.append(replace(kernel, direction="backward"))
            elif isinstance(kernel, Experts):
                products, shared = (
                    tuple(item for item in self.backward_kernels(some, weights) if isinstance(item, Kernel))
                    for some in (kernel.products, kernel.shared)
                )
                found.append(replace(kernel, products=products, shared=shared, direction="backward"))
            elif isinstance(kernel, Exchange) and kernel.alike:
                last.append(kernel)
            elif isinstance(kernel, Exchange):
                found.append(replace(kernel, kind=ADJOINT[kernel.kind], size=kernel.size * (1 + bool(kernel.covered))))
            elif kernel.name == COPY:
                found.append(kernel)  # gathering and scattering change places
            elif kernel.name == QUANTISE:
                continue  # an operand of the product after it, whose own gradients bring theirs
            elif kernel.shape is not None and kernel.core:
                found += [self._gradient(kernel, "input"), self._gradient(kernel, "weight")]
            elif kernel.shape is not None:
                m, n, _ = kernel.shape
                if self.kernels.dtype != self.kernels.wide and kernel.narrow:
                    found += self.kernels.quantise(kernel.groups * m * n)
                found.append(self._gradient(kernel, "input"))
                found += self._weight_gradient(kernel) if weights else []
            elif kernel.core and kernel.name == "attention":
                found.append(_scaled(kernel, self.kernels.software.flash_backward))
            elif kernel.core and self.kernels.software.attention == "math":
                found.append(_scaled(kernel, 2.0))
            else:
                found.append(_scaled(kernel, GRADIENT_STREAMS))
        return (*found, *last)

    def _gradient(self, kernel: Kernel, of: str) -> Kernel:
        m, n, k = shape_of(kernel)
        shape = (m, k, n) if of == "input" else (k, n, m)
        made = self.kernels.gemm(
            f"{kernel.name} {of} gradient", *shape, kernel.groups, wide=not kernel.narrow, aligned=kernel.aligned
        )
        return replace(made, core=kernel.core)

    def _weight_gradient(self, kernel: Kernel) -> list[Kernel]:
        """Product for a weight gradient, and its addition to those of micro-batches before."""
        _, n, k = shape_of(kernel)
        extra = self.kernels.software.accumulate_bytes
        if not extra:
            return [self._gradient(kernel, "weight")]
        added = self.kernels.streamed("accumulate gradient", extra * kernel.groups * n * k * self.kernels.passes)
        return [self._gradient(kernel, "weight"), *added]


def flattened(work: tuple[Work, ...]) -> list[Kernel]:
    """Kernels of some work in order, those of experts among them."""
    found: list[Kernel] = []
    for item in work:
        found += item.kernels if isinstance(item, Experts) else [item] if isinstance(item, Kernel) else []
    return found


def shape_of(kernel: Kernel) -> tuple[float, float, float]:
    """(m, n, k) of a product."""
    assert kernel.shape is not None, f"{kernel.name} is no GEMM"
    return kernel.shape


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    return replace(
        kernel,
        name=f"{kernel.name} backward",
        flops=kernel.flops * factor,
        memory_bytes=kernel.memory_bytes * factor,
        time=kernel.time * factor,
    )
