"""Rows that the experts of the most loaded rank receive, balanced or by a power law.

The power law is that of published benchmarks of mixtures (aiconfigurator's collector; recalled, not read): weights of
the experts are drawn from a bounded power law, scaled to the number of choices and rounded; what rounding leaves is
given to experts in order of their load, ties by index; and the rank timed is the one with most rows. With few tokens
all loads round to nothing, and the choices fall on neighbouring experts, all on one rank. Measured times say so: a
token's eight experts, 302 MB of weights, take 129 us on a rank that holds a quarter of 128.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS = 32  # whose mean is taken; the seed is fixed
FEW, MANY = (0.01, 2.0), 0.8  # bounds of a weight: with fewer choices than experts; most, as share of the tokens


@lru_cache(maxsize=4096)
def expert_rows(tokens: int, top: int, experts: int, ranks: int, exponent: float) -> NDArray[np.float64]:
    """Rows of each expert on the most loaded rank, of shape (draws, experts on it).

    Parameters
    ----------
    tokens : int
    top : int
        Experts that each token chooses.
    experts, ranks : int
        All experts, and ranks that share them.
    exponent : float
        Of the power law; 0 is balanced.
    """
    choices, local = tokens * top, max(1, experts // ranks)
    if exponent == 0:
        rows = np.full(experts, choices // experts)
        left = choices % experts
        rows[np.arange(left) * experts // max(1, left)] += 1  # the choices of a token are evenly spaced
        return rows[None, :local].astype(float)
    rng = np.random.default_rng(0)
    drawn = [_drawn(rng, tokens, choices, experts, exponent) for _ in range(DRAWS)]
    by_rank = np.array(drawn)[:, : local * min(ranks, experts)].reshape(DRAWS, -1, local)
    fullest = by_rank.sum(axis=2).argmax(axis=1)
    return np.asarray(by_rank[np.arange(DRAWS), fullest])


def _drawn(rng: np.random.Generator, tokens: int, choices: int, experts: int, exponent: float) -> NDArray[np.float64]:
    """One draw of the rows of every expert."""
    low, high = (1.0, max(1.0, MANY * tokens)) if choices > experts else FEW
    power = 1 - exponent
    uniform = rng.random(experts)
    if power == 0:
        weights = low * (high / low) ** uniform
    else:
        weights = ((high**power - low**power) * uniform + low**power) ** (1 / power)
    rows = np.round(weights / weights.sum() * choices)
    order, left = np.argsort(-rows, kind="stable"), int(choices - rows.sum())
    if left > 0:
        np.add.at(rows, order[np.arange(left) % experts], 1)
    rows[order[: max(0, -left)]] -= 1
    over = np.maximum(rows - tokens, 0).sum()  # a token chooses an expert once: what is too much goes to the next
    rows = np.minimum(rows, tokens)
    for expert in order:
        more = min(over, tokens - rows[expert])
        rows[expert], over = rows[expert] + more, over - more
    return np.asarray(rows)
