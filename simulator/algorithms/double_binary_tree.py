"""Double binary tree: two trees, each with half of the data, in which no rank forwards twice.

P. Sanders, J. Speck, J. L. Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and
scan", Parallel Computing 35, 2009. A rank that has children in one tree is a leaf of the other
(nearly so for odd n), and chunks follow one another up and down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from . import register
from .schedule import Algorithm, Send

CHUNKS = 8  # parts of each half that follow one another


def parents(n: int, second: bool = False) -> list[int]:
    """Parent of every rank in the first or second tree; the root's is -1.

    In the first tree rank 0 is the root and a rank's parent differs from it in its lowest set bit and
    the one above it. The second is the first mirrored, or shifted by one where n is odd.
    """
    if second:
        if n % 2 == 0:
            return [n - 1 - p if p >= 0 else -1 for p in reversed(parents(n))]
        below = parents(n)
        return [(below[(r - 1) % n] + 1) % n if below[(r - 1) % n] >= 0 else -1 for r in range(n)]
    found = [-1]
    for rank in range(1, n):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        found.append(up if up < n else rank ^ bit)
    return found


def order(tree: list[int]) -> list[int]:
    """Depth of every rank."""
    depth = []
    for rank in range(len(tree)):
        steps = 0
        while tree[rank] >= 0:
            rank, steps = tree[rank], steps + 1
        depth.append(steps)
    return depth


@register
class DoubleBinaryTree(Algorithm):
    """Up one tree and down again, in chunks; both trees side by side."""

    name = "double_binary_tree"
    kinds = ("all_reduce", "broadcast", "reduce")

    def blocks(self, kind: str, n: int, chunks: int = CHUNKS, **options: Any) -> int:
        """`chunks` for each tree."""
        return 2 * chunks

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, chunks: int = CHUNKS, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; a broadcast's or reduce's root hands over between the trees' roots."""
        both = []
        for second in (False, True):
            above = parents(n, second)
            # Relabelled so that both trees end at the root of a broadcast or reduce.
            turn = 0 if kind == "all_reduce" else (root - above.index(-1)) % n
            both.append({(r + turn) % n: (p + turn) % n for r, p in enumerate(above) if p >= 0})
        depths = [self._depths(tree) for tree in both]
        deepest = max(max(depth.values()) for depth in depths)
        passes = [("up", True)] * (kind != "broadcast") + [("down", False)] * (kind != "reduce")
        shift = deepest if len(passes) == 2 else 0
        for step in range(deepest + shift + chunks - 1):
            sends = []
            for number, (tree, depth) in enumerate(zip(both, depths, strict=True)):
                for rank, parent in tree.items():
                    for way, reduces in passes:
                        late = deepest - depth[rank] if way == "up" else shift + depth[rank] - 1
                        chunk = step - late
                        if 0 <= chunk < chunks:
                            ends = (rank, parent) if way == "up" else (parent, rank)
                            block = number * chunks + chunk
                            # Each edge of each tree and direction is a channel of its own.
                            channel = 2 * (rank if way == "down" else n) + number
                            sends.append(Send(*ends, (block,), reduces, channel))
            yield sends

    @staticmethod
    def _depths(tree: dict[int, int]) -> dict[int, int]:
        depth = {}
        for rank in tree:
            at, steps = rank, 0
            while at in tree:
                at, steps = tree[at], steps + 1
            depth[rank] = steps
        return depth

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """Half of the data for every message a rank's port carries at once."""
        return (width(kind, n) * size / 2,)

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, chunks: int = CHUNKS, **options: Any) -> Any:
        """``(passes depth + chunks - 1) (hop + width size / 2 / chunks / rate)``.

        The depth is ``ceil(log2 n)``; the width is how many messages a rank sends or hears at once, which
        share its port.
        """
        depth = np.ceil(np.log2(n))
        stages = (2 if kind == "all_reduce" else 1) * depth + chunks - 1
        counts, place = np.unique(n, return_inverse=True)
        widths = np.array([width(kind, int(count)) for count in counts])[place].reshape(np.shape(n))
        return stages * (hop + widths * size / 2 / chunks / rate)


@cache
def width(kind: str, n: int) -> int:
    """Most messages one rank sends, or hears, at once in both trees."""
    if n == 1:
        return 1
    trees = [parents(n, second) for second in (False, True)]
    if kind == "all_reduce":
        # What a rank sends up to its parents and down to its children; it hears as much.
        degree = [0] * n
        for tree in trees:
            for rank, parent in enumerate(tree):
                if parent >= 0:
                    degree[rank] += 1
                    degree[parent] += 1
        return max(degree)
    # Both trees have the same root here: children in both, but at least one parent in each.
    children = [0] * n
    for tree in trees:
        for parent in tree:
            if parent >= 0:
                children[(parent - tree.index(-1)) % n] += 1
    return max(2, *children)
