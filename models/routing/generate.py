"""Routing drawn from a model of few parameters.

The experts of every layer stand on a hidden ring, in an order of their own, and a place of the ring is as popular in
all layers (Zipf). A token at a place goes on, with probability `affinity`, to the same place of the next layer or to
one near it, the less likely the farther (geometric), else to any place by its popularity alone. Which places are near
is the same for all layers, so that tokens of a kind stay together, or, for what `persistence` leaves, drawn anew at
each boundary. ExFlow's fixed partner is `partners=1`.

Matrices are scaled to their margins (iterative proportional fitting), so that in expectation loads of first slots
follow the popularity exactly, however strong the affinity. The further slots are drawn from the same row without
replacement; with skew, that flattens the load of all slots, since no token takes a popular expert twice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...hardware.errors import InputError
from .trace import MOST, RoutingTrace

Floats = NDArray[np.float64]

_CHUNK = 2**18  # draws at a time
_FLOOR = 1e-12  # probability of what cannot be, so that k experts are found where fewer can
_ROUNDS = 10_000  # of scaling
_EXACT = 1e-10  # largest error of a margin, relative
_LIMIT = 2**31  # token slots, or pairs of experts, beyond which a size is taken for a mistake


def generate(
    tokens: int,
    layers: int,
    experts: int,
    k: int = 1,
    *,
    affinity: float | ArrayLike = 0.0,
    partners: float = 2.0,
    persistence: float = 1.0,
    skew: float = 0.0,
    groups: int = 1,
    limit: int | None = None,
    seed: int = 0,
) -> RoutingTrace:
    """Draw a trace.

    Parameters
    ----------
    tokens, layers, experts, k : int
    affinity : float or array_like, shape (layers - 1,)
        Probability, 0 to 1, that a token's next expert depends on its last; of all boundaries, or each.
    partners : float
        How many experts of the next layer share in that, as an effective number, 1 or more: the nearest has one part
        in so many of it.
    persistence : float
        Share, 0 to 1, of what goes to places near that goes to the same at every boundary.
    skew : float
        Exponent of Zipf's law of popularity; 0 is uniform.
    groups, limit : int
        Experts in so many groups of equal size, of which a token takes its experts from `limit`: those whose best
        experts are best, as DeepSeek-V2 chooses devices. (DeepSeek-V3 ranks groups by their two best.)
    seed : int

    Raises
    ------
    InputError
        One line with parameter and legal range.
    """
    allowed = _check(tokens, layers, experts, k, groups, limit)
    strength = strengths(affinity, layers)
    generator = np.random.default_rng(seed)
    popular = zipf(experts, skew)[generator.permutation(experts)]
    rows = popular[None, :]
    ids = np.empty((tokens, layers, k), dtype=np.int32)
    place = np.zeros(tokens, dtype=np.int64)  # of the first expert in the layer before
    for layer in range(layers):
        order = generator.permutation(experts).astype(np.int32)  # id at each place
        if layer:
            # A stream of its own: what is drawn here does not shift the tokens' draws.
            turn = np.random.default_rng([seed, layer])
            rows = transition(popular, float(strength[layer - 1]), kernel(experts, partners, persistence, turn))
        rate = np.maximum(rows, _FLOOR).astype(np.float32)
        step = max(1, _CHUNK // experts)
        for some in (slice(begin, begin + step) for begin in range(0, tokens, step)):
            # The first of clocks that ring at such rates has the probabilities; the next ones, without replacement.
            clock = generator.standard_exponential((len(place[some]), experts), dtype=np.float32)
            clock /= rate[place[some]]
            if groups > 1:
                _close(clock, order // (experts // groups), groups, allowed)
            chosen = _least(clock, k)
            ids[some, layer] = order[chosen]
            place[some] = chosen[:, 0]
    shown = f"{strength.mean():.4g}" if layers > 1 else "none"
    source = (
        f"generated: affinity {shown}, partners {partners:.4g}, persistence {persistence:.4g}, skew {skew:.4g}, "
        f"seed {seed}"
    )
    return RoutingTrace(ids, experts, source=source)


def zipf(experts: int, skew: float) -> Floats:
    """Shares of experts, most popular first, shape (experts,)."""
    if not 0 <= skew <= 20:
        raise InputError(f"skew: {skew!r:.60} (legal: 0 to 20)")
    shares = np.arange(1, experts + 1, dtype=float) ** -skew
    return np.asarray(shares / shares.sum())


def nearness(experts: int, partners: float) -> Floats:
    """Probability of each distance along the ring, in one direction, shape (experts,); the first is none."""
    if not 1 <= partners < np.inf:
        raise InputError(f"partners: {partners!r:.60} (legal: 1 or more)")
    ahead = np.arange(experts)
    # 1 + 2 r + 2 r² + … is (1 + r) / (1 - r), the effective number of partners.
    weights = ((partners - 1) / (partners + 1)) ** np.minimum(ahead, experts - ahead)
    return np.asarray(weights / weights.sum())


def kernel(experts: int, partners: float, persistence: float, generator: np.random.Generator) -> Floats:
    """Probability of each next place for tokens that go near, shape (experts, experts); symmetric."""
    if not 0 <= persistence <= 1:
        raise InputError(f"persistence: {persistence!r:.60} (legal: 0 to 1)")
    ahead = (np.arange(experts)[None, :] - np.arange(experts)[:, None]) % experts
    ring = nearness(experts, partners)[ahead]
    if persistence == 1:
        return np.asarray(ring)
    other = generator.permutation(experts)
    return np.asarray(persistence * ring + (1 - persistence) * ring[other[:, None], other[None, :]])


def joint(popular: Floats, affinity: float, near: Floats) -> Floats:
    """Share of tokens that go from each place to each of the next layer, shape (experts, experts).

    Symmetric, with margins `popular`; `near` is a `kernel`.
    """
    both = np.outer(popular, popular)
    found = (1 - affinity) * both + affinity * np.sqrt(both) * near
    scale = np.ones(len(popular))
    for _ in range(_ROUNDS):
        rows = scale * (found @ scale)
        if np.abs(rows / popular - 1).max() < _EXACT:
            break
        scale *= np.sqrt(popular / rows)  # a symmetric matrix stays so with the same scale on both sides
    return np.asarray(scale[:, None] * found * scale[None, :])


def transition(popular: Floats, affinity: float, near: Floats) -> Floats:
    """Probability of each next place given one, shape (experts, experts)."""
    found = joint(popular, affinity, near)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def strengths(affinity: float | ArrayLike, layers: int) -> Floats:
    """Affinity of each boundary, shape (layers - 1,)."""
    try:
        given = np.asarray(affinity, dtype=float)
        found = np.broadcast_to(given, (max(layers - 1, 0),)) if given.ndim == 0 else given
    except (TypeError, ValueError):
        raise InputError(f"affinity: {affinity!r:.60} (legal: numbers from 0 to 1)") from None
    if found.shape != (layers - 1,):
        raise InputError(f"affinity: shape {found.shape} (legal: one number, or {layers - 1}, one for each boundary)")
    bad = ~((found >= 0) & (found <= 1))
    if bad.any():
        raise InputError(f"affinity: {found[bad][0]} (legal: 0 to 1)")
    return found


def _close(clock: NDArray[np.float32], group: NDArray[np.int32], groups: int, limit: int) -> None:
    """Stop the clocks of all groups but those few whose first rings first."""
    members = [np.flatnonzero(group == number) for number in range(groups)]
    first = np.stack([clock[:, some].min(axis=1) for some in members], axis=1)
    open_ = np.zeros(first.shape, dtype=bool)
    np.put_along_axis(open_, _least(first, limit), True, axis=1)
    clock[~open_[:, group]] = np.inf


def _least(clock: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k least, in order, shape (tokens, k)."""
    if k == 1:
        return np.asarray(clock.argmin(axis=1)[:, None])
    some = np.argpartition(clock, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(clock, some, axis=1).argsort(axis=1)
    return np.asarray(np.take_along_axis(some, order, axis=1))


def _check(tokens: int, layers: int, experts: int, k: int, groups: int, limit: int | None) -> int:
    """Refuse sizes that cannot be; return how many groups a token may use."""
    for name, value, most in (
        ("tokens", tokens, _LIMIT), ("layers", layers, 10_000), ("experts", experts, MOST), ("k", k, experts),
        ("groups", groups, experts), ("limit", groups if limit is None else limit, groups),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
            raise InputError(f"{name}: {value!r:.60} (legal: 1 to {most})")
    if experts % groups:
        raise InputError(f"groups: {groups} of {experts} experts (legal: a divisor of {experts})")
    if tokens * layers * k > _LIMIT:
        raise InputError(f"tokens: {tokens} with {layers} layers and {k} experts each (legal: {_LIMIT} slots in all)")
    if experts * experts > _LIMIT:
        raise InputError(f"experts: {experts} (legal: at most {int(_LIMIT**0.5)})")
    allowed = groups if limit is None else limit
    if allowed * (experts // groups) < k:
        raise InputError(f"limit: {allowed} groups of {experts // groups} (legal: {k} experts or more, for k)")
    return allowed


MIXTRAL_AFFINITY, MIXTRAL_PARTNERS = 0.4196, 2.0
"""Of routing like that of Mixtral 8x7B; fitted by `validation.fit_routing`, which says to what, and what is assumed."""


def mixtral_like(tokens: int = 5000, seed: int = 0) -> RoutingTrace:
    """Draw a trace like one of Mixtral 8x7B: 32 layers, two of eight experts.

    Placed best, its first experts change GPU about as often as published: 17.5 of 31 times on 4 GPUs, 22.2 on 8.
    """
    trace = generate(tokens, 32, 8, 2, affinity=MIXTRAL_AFFINITY, partners=MIXTRAL_PARTNERS, seed=seed)
    return replace(trace, source=f"like Mixtral 8x7B, {trace.source}")
