"""What a trace says about load, affinity between layers, and tokens on their way among devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...hardware.errors import InputError
from .trace import RoutingTrace

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Slots = Literal["first", "all"]

_CHUNK = 2**20  # token slots looked up at a time


class Affinity(NamedTuple):
    """How far the first expert of a layer tells that of the next, each of shape (layers - 1,).

    Parameters
    ----------
    largest : ndarray
        Largest conditional probability of an expert's successors, mean over tokens.
    information : ndarray
        Mutual information [bits], less what chance adds in a trace of so many tokens (Miller and Madow, who
        take off too little where there are fewer tokens than pairs of experts).
    normalised : ndarray
        The information over the entropy of the next layer's expert, 0 to 1.
    markov : ndarray
        With this probability a token goes on to a fixed partner of its expert, one to one, else as if it had none:
        ExFlow's model of one parameter. The partners are those that most tokens of the trace go to.
    """

    largest: Floats
    information: Floats
    normalised: Floats
    markov: Floats


class Crossings(NamedTuple):
    """Changes of place per token over all boundaries between layers.

    Parameters
    ----------
    devices, nodes : float
        Changes of device, those of node among them.
    """

    devices: float
    nodes: float


class Reach(NamedTuple):
    """Where the k experts of a token and layer are, mean over tokens and layers.

    Parameters
    ----------
    devices, nodes : float
        Distinct ones. A token is sent once to each device, or to each node where one forwards it to the others.
    local, local_nodes : float
        Share of those copies that stay on the device, or node, of a token that may be on any device with the same
        probability. One over their number, whatever the trace.
    followed, followed_nodes : float
        The same for a token that is where its first expert of the layer before was; of the second layer on.
    """

    devices: float
    nodes: float
    local: float
    local_nodes: float
    followed: float
    followed_nodes: float


def loads(trace: RoutingTrace, slots: Slots = "all") -> Floats:
    """Share of a layer's token slots that each expert has, shape (layers, experts).

    Parameters
    ----------
    trace : RoutingTrace
    slots : str
        "all", or "first" for those with the largest gate alone.
    """
    used = 1 if _slots(slots) == "first" else trace.k
    counts = [np.bincount(trace.experts[:, i, :used].ravel(), minlength=trace.count) for i in range(trace.layers)]
    return np.array(counts) / (trace.tokens * used)


def pair_counts(trace: RoutingTrace, slots: Slots = "first") -> Floats:
    """Tokens that go from an expert to one of the next layer, shape (layers - 1, experts, experts).

    Parameters
    ----------
    trace : RoutingTrace
    slots : str
        "first": from the expert with the largest gate to the next such. "all": from every expert of a token to every
        one of the next layer, 1 / k² of a token each.

    Returns
    -------
    ndarray
        A boundary sums to the number of tokens.
    """
    used = 1 if _slots(slots) == "first" else trace.k
    size = trace.count
    found = np.zeros((max(trace.layers - 1, 0), size, size))
    # bincount wants this type, and a layer's slots one after another.
    ahead = trace.experts[:, 0, :used].T.astype(np.intp, order="C")
    for boundary in range(trace.layers - 1):
        here, ahead = ahead * size, trace.experts[:, boundary + 1, :used].T.astype(np.intp, order="C")
        total = np.zeros(size * size, dtype=np.int64)
        for i in range(used):
            for j in range(used):
                total += np.bincount(here[i] + ahead[j], minlength=size * size)
        found[boundary] = total.reshape(size, size) / used**2
    return found


def affinity(trace: RoutingTrace, slots: Slots = "first") -> Floats:
    """Probability of each expert of the next layer given one of this, shape (layers - 1, experts, experts).

    A row of an expert that no token took is 0; any other sums to 1.
    """
    pairs = pair_counts(trace, slots)
    rows = pairs.sum(axis=2, keepdims=True)
    return np.asarray(np.divide(pairs, rows, out=np.zeros_like(pairs), where=rows > 0))


def affinity_by_layer(trace: RoutingTrace) -> Affinity:
    """Measures of affinity at each boundary, of the first slots."""
    return affinity_of(pair_counts(trace))


def affinity_of(pairs: Floats) -> Affinity:
    """Measures of affinity from counts of pairs, shape (boundaries, experts, experts)."""
    from scipy.optimize import linear_sum_assignment

    found = []
    for counts in pairs:
        total = counts.sum()
        before, after = counts.sum(axis=1), counts.sum(axis=0)
        # Entropies of plug-in shares are too small by (values seen - 1) / 2 tokens.
        seen = [int((part > 0).sum()) for part in (before, after, counts)]
        chance = (seen[0] + seen[1] - seen[2] - 1) / (2 * total)
        entropy = [_entropy(part) for part in (before, after, counts)]
        nats = max(0.0, entropy[0] + entropy[1] - entropy[2] + chance)
        whole = max(entropy[1], np.finfo(float).tiny)
        rows, columns = linear_sum_assignment(counts, maximize=True)
        kept = counts[rows, columns].sum() / total
        by_chance = float(before @ after[columns]) / total**2
        markov = max(0.0, (kept - by_chance) / max(1 - by_chance, np.finfo(float).tiny))
        found.append((counts.max(axis=1).sum() / total, nats / np.log(2), min(1.0, nats / whole), markov))
    return Affinity(*np.array(found, dtype=float).reshape(-1, 4).T)


def crossings(
    trace: RoutingTrace, device: ArrayLike, nodes: int = 1, devices: int | None = None, slots: Slots = "first"
) -> Crossings:
    """Changes of device and node per token over all boundaries.

    Parameters
    ----------
    trace : RoutingTrace
    device : array_like of int, shape (layers, experts)
        Device of each expert; devices are numbered node by node.
    nodes : int
    devices : int, optional
        Default the highest in `device` and those before it.
    slots : str
        As of `pair_counts`.
    """
    where, devices = _placed(trace, device, devices, nodes)
    used = 1 if _slots(slots) == "first" else trace.k
    changes = np.zeros(2)
    for places in _chunks(trace, where, used):
        for unit, size in enumerate((1, devices // nodes)):
            units = places // size
            for i in range(used):
                for j in range(used):
                    changes[unit] += np.count_nonzero(units[:, :-1, i] != units[:, 1:, j])
    return Crossings(*(changes / (trace.tokens * used**2)).tolist())


def reach(trace: RoutingTrace, device: ArrayLike, devices: int | None = None, nodes: int = 1) -> Reach:
    """Devices and nodes that the experts of a token and layer are on; parameters as of `crossings`."""
    where, devices = _placed(trace, device, devices, nodes)
    copies, later, stay = np.zeros(2), np.zeros(2), np.zeros(2)
    for places in _chunks(trace, where, trace.k):
        for unit, size in enumerate((1, devices // nodes)):
            units = np.sort(places // size, axis=-1)
            distinct = 1 + (units[..., 1:] != units[..., :-1]).sum(axis=-1)
            before = places[:, :-1, :1] // size
            copies[unit] += distinct.sum()
            later[unit] += distinct[:, 1:].sum()
            stay[unit] += np.count_nonzero((units[:, 1:] == before).any(axis=-1))
    mean = copies / (trace.tokens * trace.layers)
    share = np.divide(stay, later, out=np.zeros(2), where=later > 0)
    return Reach(float(mean[0]), float(mean[1]), 1 / devices, 1 / nodes, float(share[0]), float(share[1]))


def imbalance(trace: RoutingTrace, device: ArrayLike, devices: int | None = None) -> Floats:
    """Load of the busiest device over the mean of all, shape (layers,); parameters as of `crossings`."""
    where, devices = _placed(trace, device, devices, 1)
    shares = [np.bincount(where[i], load, devices).max() for i, load in enumerate(loads(trace))]
    return np.array(shares) * devices


def dropped(trace: RoutingTrace, capacity: float, batch: int | None = None) -> float:
    """Share of token slots beyond what experts take.

    Parameters
    ----------
    trace : RoutingTrace
    capacity : float
        An expert takes so many times the mean of all, rounded up, of every batch; the first to come.
    batch : int, optional
        Tokens, one after the other, that are routed at once; default all.

    Raises
    ------
    InputError
        For a capacity or batch that is not positive.
    """
    if not 0 < capacity < np.inf:
        raise InputError(f"capacity: {capacity!r:.60} (legal: a positive number)")
    size = trace.tokens if batch is None else min(batch, trace.tokens)
    if size != int(size) or size < 1:
        raise InputError(f"batch: {batch!r:.60} (legal: 1 token or more)")
    number = np.arange(trace.tokens) // size
    held = np.bincount(number)
    room = np.ceil(np.round(capacity * held * trace.k / trace.count, 9))[:, None]
    beyond = 0.0
    for layer in range(trace.layers):
        place = (number[:, None] * trace.count + trace.experts[:, layer]).ravel()
        counts = np.bincount(place, minlength=len(held) * trace.count).reshape(len(held), trace.count)
        beyond += np.maximum(counts - room, 0).sum()
    return float(beyond / trace.experts.size)


def _entropy(counts: Floats) -> float:
    """Entropy of shares [nats]."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _slots(slots: str) -> str:
    if slots not in ("first", "all"):
        raise InputError(f"slots: {slots!r:.60} (legal: first, all)")
    return slots


def _placed(trace: RoutingTrace, device: ArrayLike, devices: int | None, nodes: int) -> tuple[Integers, int]:
    """Check a placement; return it with the number of devices."""
    where = np.asarray(device)
    shape = (trace.layers, trace.count)
    if where.shape != shape or where.dtype.kind not in "iu":
        raise InputError(f"device: {where.dtype} of shape {where.shape} (legal: whole numbers of shape {shape})")
    last = int(where.max())
    total = last + 1 if devices is None else devices
    if where.min() < 0 or last >= total:
        bad = last if last >= total else int(where.min())
        raise InputError(f"device: {bad} (legal: 0 to {total - 1})")
    if nodes < 1 or total % nodes:
        raise InputError(f"nodes: {nodes} for {total} devices (legal: a divisor of {total})")
    return where.astype(np.int64), total


def _chunks(trace: RoutingTrace, where: Integers, used: int) -> Iterator[Integers]:
    """Places of experts of some tokens, shape (tokens, layers, used)."""
    rows = max(1, _CHUNK // (trace.layers * used))
    layer = np.arange(trace.layers)[:, None]
    for begin in range(0, trace.tokens, rows):
        yield where[layer, trace.experts[begin : begin + rows, :, :used]]
