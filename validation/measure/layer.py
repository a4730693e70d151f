"""One transformer layer, executed in torch and predicted from a profile: something that no fit has seen.

Pre-norm, gated MLP, whole or divided over tensor-parallel ranks with an all-reduce after each half forward and
backward (Megatron-LM, arXiv 1909.08053, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...hardware import Device
from ...models.architecture import Transformer
from ...models.blocks import Block, Tokens
from ...models.kernels import Kernel, Kernels
from ...models.layers import Layers
from ...models.library import load_model
from ...models.products import DTYPE_BYTES
from ...models.software import Software

if TYPE_CHECKING:
    import torch

# Torch operator by operator: nothing fused, no gradient accumulated.
EAGER = Software("eager torch", fuses_residual=False)


@dataclass(frozen=True)
class LayerShape:
    """Shape of a layer and of its input.

    Parameters
    ----------
    hidden, heads, ffn : int
    batch, sequence : int
    dtype : str
    """

    hidden: int = 1024
    heads: int = 16
    ffn: int = 4096
    batch: int = 4
    sequence: int = 256
    dtype: str = "fp32"

    def model(self) -> Transformer:
        """As the product knows it; learned positions, so that nothing is rotated."""
        config = {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": 1,
            "num_attention_heads": self.heads,
            "intermediate_size": self.ffn,
            "vocab_size": 1024,
            "max_position_embeddings": self.sequence,
        }
        return replace(load_model(config), positions=self.sequence)

    @property
    def message(self) -> float:
        """Bytes of an activation that tensor-parallel ranks add up [B]."""
        return float(DTYPE_BYTES[self.dtype] * self.batch * self.sequence * self.hidden)


def predict(shape: LayerShape, device: Device, tp: int = 1, turns: float = 1.0) -> dict[str, float]:
    """Forward and backward pass of a rank by part, without communication [s].

    Parameters
    ----------
    shape : LayerShape
    device : Device
        With its profile named, or a datasheet.
    tp : int
        Tensor-parallel ranks.
    turns : float
        Ranks that take turns on a core.
    """
    layers = Layers(shape.model(), Kernels(device, EAGER, shape.dtype, training=True), tp, training=True)
    forward = layers.forward(0, Tokens(shape.batch, shape.sequence, shape.sequence))
    blocks: list[Block] = [*forward, *(layers.backward(block) for block in reversed(forward))]
    found = {"products": 0.0, "attention": 0.0, "other": 0.0}
    for block in blocks:
        for work in (*block.kernels, *block.deferred):
            if isinstance(work, Kernel):
                part = "attention" if work.core else "products" if work.shape else "other"
                found[part] += turns * float(work.time + work.overhead)
    return found


def shared(device: Device, whole: Device) -> Device:
    """A core of a host whose cores all work: no more of the memory's bandwidth than its share.

    Parameters
    ----------
    device : Device
        Of one rank's threads, measured alone.
    whole : Device
        The host with all its cores at work.
    """
    share = whole.memory_bandwidth * device.compute_units / whole.compute_units
    return replace(device, name=f"{device.name}-shared", memory_bandwidth=min(device.memory_bandwidth, share))


def build(
    shape: LayerShape,
    tp: int = 1,
    reduce: Callable[[torch.Tensor], object] | None = None,
    device: str = "cpu",
    tool: str = "flash",
) -> Callable[[int], object]:
    """Function that runs the layer forward and backward once.

    Parameters
    ----------
    shape : LayerShape
    tp : int
        Ranks that heads and MLP are divided over.
    reduce : callable, optional
        Adds a tensor up over the ranks, in place.
    device : str
        cpu | cuda.
    tool : str
        Backend of attention.
    """
    import torch
    from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

    from .kernels import pinned, torch_dtype

    class Add(torch.autograd.Function):
        """Sum over the ranks forward, nothing backward; or the other way round."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, backwards: bool) -> torch.Tensor:
            ctx.backwards = backwards
            if reduce is not None and not backwards:
                x = x.contiguous()
                reduce(x)
                return x
            same: torch.Tensor = x.view_as(x)
            return same

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            (gradient,) = gradients
            if reduce is not None and ctx.backwards:
                gradient = gradient.contiguous()
                reduce(gradient)
            return gradient, None

    def add(x: torch.Tensor, backwards: bool) -> torch.Tensor:
        found: torch.Tensor = Add.apply(x, backwards)  # type: ignore[no-untyped-call]
        return found

    hidden, heads, ffn = shape.hidden, shape.heads // tp, shape.ffn // tp
    width = shape.hidden // shape.heads
    torch.manual_seed(0)

    def drawn(*sizes: int, scale: float = 1.0) -> torch.Tensor:
        made: torch.Tensor = scale * torch.randn(*sizes)
        return made.to(device, torch_dtype(shape.dtype))

    def weight(rows: int, inner: int) -> torch.Tensor:
        return drawn(rows, inner, scale=inner**-0.5).requires_grad_()

    qkv, out = weight(3 * heads * width, hidden), weight(hidden, heads * width)
    up, down = weight(2 * ffn, hidden), weight(hidden, ffn)
    norms = [torch.ones(hidden, device=device, dtype=torch_dtype(shape.dtype), requires_grad=True) for _ in range(2)]
    x = drawn(shape.batch, shape.sequence, hidden).requires_grad_()
    outer = drawn(shape.batch, shape.sequence, hidden)
    leaves = [x, qkv, out, up, down, *norms]

    def run(_: int) -> object:
        for leaf in leaves:
            leaf.grad = None
        inner = add(rms_norm(x, (hidden,), norms[0]), True)
        parts = linear(inner, qkv).view(shape.batch, shape.sequence, 3, heads, width).permute(2, 0, 3, 1, 4)
        with pinned(tool):
            mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        y = x + add(linear(mixed.transpose(1, 2).flatten(2), out), False)
        gate, value = linear(add(rms_norm(y, (hidden,), norms[1]), True), up).chunk(2, dim=-1)
        y = y + add(linear(silu(gate) * value, down), False)
        torch.autograd.backward(y, outer)
        return y

    return run
