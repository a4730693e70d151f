"""What BigMac's table 3 counts (arXiv 2502.16927): parameters, FLOPs and exchanged bytes of an iteration.

As printed, with what is left out in it: one router for all layers, no learned positions, whole scores instead of their
causal half. Its table 4 follows to the last digit for a vocabulary padded to a multiple of 128, as Megatron-LM pads
it, 2**19 tokens an iteration ("0.5M"), and GiB where GB is written.
"""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 50_304  # GPT-2's 50,257, padded


@dataclass(frozen=True)
class Shape:
    """A GPT whose every layer has fine-grained experts: two matrices, `r` times as wide inside as outside.

    Parameters
    ----------
    layers, hidden, heads : int
    experts, top_k : int
        Routed experts of a layer, and of a token.
    r : float
        Width inside a fine-grained expert, and of BigMac's bottleneck, over `hidden`.
    vocabulary : int
    """

    layers: int
    hidden: int
    heads: int
    experts: int = 64
    top_k: int = 8
    r: float = 0.25
    vocabulary: int = VOCABULARY


def parameters(shape: Shape, bigmac: bool) -> float:
    """Scalar weights.

    Parameters
    ----------
    shape : Shape
    bigmac : bool
        With the two projections of every layer.
    """
    h, r = shape.hidden, shape.r
    layer = 4 * h**2 + 8 * h + (2 * r * h**2 + 2 * r * h) * shape.experts + bigmac * 2 * r * h**2
    return layer * shape.layers + (shape.vocabulary + shape.experts + 2) * h


def iteration_flops(shape: Shape, sequences: float, length: int, bigmac: bool) -> float:
    """FLOPs of a forward and a backward pass.

    Parameters
    ----------
    shape : Shape
    sequences : float
        Of the global batch.
    length : int
        Tokens of each.
    bigmac : bool
    """
    h, r = shape.hidden, shape.r
    each = 2 + length / h + shape.vocabulary / (2 * shape.layers * h) + r * shape.top_k + bigmac * r
    return 12 * sequences * length * shape.layers * h**2 * each


def exchanged_bytes(shape: Shape, sequences: float, length: int, ep: int, bigmac: bool) -> float:
    """Bytes that all devices send in the all-to-alls of an iteration [B]: 2 a number, there and back, twice.

    Parameters
    ----------
    shape : Shape
    sequences : float
    length : int
    ep : int
        Devices that divide the experts.
    bigmac : bool
    """
    width = shape.hidden * (shape.r if bigmac else 1.0)
    return 8 * sequences * length * shape.layers * width * shape.top_k * (ep - 1) / ep
