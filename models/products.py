"""Time of a matrix product from tiles, waves and a roofline."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..hardware import Device

DTYPE_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5}
# Formats only matrix units have; activations around them, attention and messages are bf16.
NARROW = ("fp8", "fp4", "int8")
# Exponentials of a compute unit in a clock: four special-function units in each of its four parts (V100 to H100).
EXPONENTIALS = 16

# Each halving of the output tile costs this share of the large-tile rate: a smaller tile re-reads
# its operands from the cache more often. Fitted with the device efficiencies to the published GEMM
# tables of two GPUs (`commlens validate --family kernels` reports the error).
TILE_PENALTY = 0.18
SPLIT_K = (1, 2, 4, 8, 16)
K_STEP = 64
# What matrix units load at once: rows of an operand in half precision are multiples of eight elements (NVIDIA's
# guide to matrix products; recalled. That libraries leave the matrix units alone otherwise is inferred from
# BLOOM's candidates with heads of 150, whose steps take a third longer than those with heads of 128).
ALIGNMENT = 16


def tiles(device: Device) -> list[tuple[int, int]]:
    """Output tiles a GEMM library chooses from: the device's largest, then halved down to 64."""
    m, n = device.gemm_tile
    found = [(m, n)]
    while max(m, n) > 64:
        m, n = (m // 2, n) if m >= n else (m, n // 2)
        found.append((m, n))
    return found


def gemm_time(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    device: Device,
    dtype: str = "bf16",
    groups: ArrayLike = 1,
    read_bytes: ArrayLike | None = None,
    output_size: float | None = None,
    aligned: bool = True,
) -> Any:
    """Time of ``groups`` independent (m x k) @ (k x n) products in one kernel [s].

    The slower of arithmetic, in whole waves of output tiles over the compute units, and memory
    traffic. The best of the device's tile sizes and split-K factors is taken, as a tuned library
    does. Arguments may be arrays.

    Parameters
    ----------
    m, n, k : float or array
        Shape.
    device : Device
    dtype : str
    groups : float or array
        Products in one launch (experts, heads).
    read_bytes : float or array, optional
        Operand bytes read from memory [B]; default each operand once.
    output_size : float, optional
        Bytes of an output element; default those of `dtype`.
    aligned : bool
        Whether rows of the operands begin at whole vectors of `ALIGNMENT` bytes. Otherwise the matrix units
        are not used, and the ordinary ones compute in fp32.
    """
    m, n, k, groups = (np.asarray(value, dtype=float) for value in (m, n, k, groups))
    size = DTYPE_BYTES[dtype]
    written = groups * (size if output_size is None else output_size) * m * n
    peak, units = device.flops(dtype if aligned else "fp32"), device.compute_units
    bandwidth = device.memory_bandwidth * device.memory_efficiency
    reads = groups * size * (m * k + k * n) if read_bytes is None else np.asarray(read_bytes, dtype=float)
    best: Any = np.inf
    for step, (tile_m, tile_n) in enumerate(tiles(device)):
        rate = peak * device.gemm_efficiency * (1 - TILE_PENALTY) ** step
        for split in SPLIT_K:
            count = groups * np.ceil(m / tile_m) * np.ceil(n / tile_n) * split
            depth = np.ceil(k / split / K_STEP) * K_STEP if split > 1 else k
            arithmetic = np.ceil(count / units) * units * 2 * tile_m * tile_n * depth / rate
            # A split product writes and re-reads its fp32 partial sums.
            partial = 8 * groups * m * n * split if split > 1 else 0
            traffic = (reads + written + partial) / bandwidth
            best = np.minimum(best, np.maximum(arithmetic, traffic))
    return best
