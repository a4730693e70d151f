"""Extra copies of hot experts, so that the busiest device of each layer does as little as can be.

Copies of an expert share its tokens equally. How many copies each has is decided as EPLB (the load balancer
published with DeepSeek-V3) does, one after the other for the expert whose copies are the largest; they are
packed largest first onto the idlest device with a place left, and swapped while that relieves the busiest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError
from .placement_problem import TINY, Floats, Ints, counted, loads, shares

_HALVINGS = 40  # of the range in which the least load of the busiest device is sought
_EVEN = 1e-3  # excess over the mean at which no other number of copies is tried
_PARTS = 16  # of the free places that are filled, in turn; more copies do not always pack better


@dataclass(frozen=True, slots=True, eq=False)
class Replicas:
    """Which experts have copies where, and how even that is.

    Parameters
    ----------
    expert : ndarray of int, shape (layers, devices, slots)
        Expert in each place, -1 where none is.
    copies : ndarray of int, shape (layers, experts)
        Number of copies of each expert, 1 or more.
    imbalance : ndarray, shape (layers,)
        Load of the busiest device over the mean of the devices.
    bound : ndarray, shape (layers,)
        No copies and places make that ratio lower.
    gap : ndarray, shape (layers,)
        ``1 - bound / imbalance``.
    crossings : float
        Changes of device of a token through all layers if it takes any copy with equal chance; not a number
        unless `pairs` were given.
    """

    expert: NDArray[np.int64]
    copies: NDArray[np.int64]
    imbalance: NDArray[np.float64]
    bound: NDArray[np.float64]
    gap: NDArray[np.float64]
    crossings: float


def replicate(load: ArrayLike, devices: int, slots: int, *, pairs: ArrayLike | None = None) -> Replicas:
    """Copy experts and place the copies so that the largest load of a device is least.

    Parameters
    ----------
    load : array_like, shape (layers, experts)
        Tokens of each expert, in any unit.
    devices : int
        Number of devices.
    slots : int
        Places for experts on a device and layer, so that all experts have one: experts / devices or more.
    pairs : array_like, shape (layers - 1, experts, experts), optional
        As in `place_experts`. What the devices of each layer hold is then given to those devices where most
        tokens stay; loads are the same whatever the device.

    Returns
    -------
    Replicas

    Raises
    ------
    InputError
        For too few slots, shapes that do not fit and numbers outside their range.
    """
    share = loads(load)
    layers, experts = share.shape
    counted(devices, "devices")
    counted(slots, "slots")
    if devices * slots < experts:
        raise InputError(
            f"slots: {slots} on each of {devices} devices are too few for {experts} experts "
            f"(legal: {-(-experts // devices)} or more)"
        )
    moved = None if pairs is None else shares(pairs)
    if moved is not None and (len(moved) + 1, moved.shape[1]) != (layers, experts):
        raise InputError(f"pairs: shape {moved.shape} (legal: {(layers - 1, experts, experts)}, as load has it)")
    expert = np.array([_place(row, devices, slots) for row in share])
    copies = np.array([np.bincount(row[row >= 0], minlength=experts) for row in expert])
    busiest = np.array([_held(row, piece).max() for row, piece in zip(expert, share / copies, strict=True)]) * devices
    bound = np.array([_least(row, devices, slots) * devices for row in share])
    bound = np.where(bound < busiest * (1 - 2 * TINY), bound, busiest)
    changes = float("nan") if moved is None else _stay(expert, copies, moved)
    return Replicas(expert, copies, busiest, bound, 1 - bound / busiest, changes)


def _copied(load: Floats, most: int, total: int) -> Ints:
    """Copies of each expert, `total` of them and at most `most` of one, so that the largest share is least."""
    copies = np.ones(len(load), dtype=np.int64)
    for _ in range(total - len(load)):
        piece = np.where(copies < most, load / copies, -1.0)
        largest = int(piece.argmax())
        if piece[largest] <= 0:
            break
        copies[largest] += 1
    return copies


def _place(load: Floats, devices: int, slots: int) -> Ints:
    """Places of one layer, shape (devices, slots), with the best of several numbers of copies."""
    free = devices * slots - len(load)
    best, least = np.empty((0, 0), dtype=np.int64), np.inf
    for extra in sorted({round(free * part / _PARTS) for part in range(_PARTS + 1)}, reverse=True):
        copies = _copied(load, devices, len(load) + extra)
        table = _pack(load / copies, copies, devices, slots)
        largest = float(_held(table, load / copies).max())
        if largest < least - TINY:
            best, least = table, largest
        if least <= (1 + _EVEN) / devices:
            break
    return best


def _pack(piece: Floats, copies: Ints, devices: int, slots: int) -> Ints:
    table = np.full((devices, slots), -1)
    used, held = np.zeros(devices, dtype=np.int64), np.zeros(devices)
    for e in np.argsort(-piece, kind="stable").tolist():
        for _ in range(int(copies[e])):
            cost = np.where(used < slots, held, np.inf)
            apart = np.where((table == e).any(axis=1), np.inf, cost)
            device = int((apart if np.isfinite(apart).any() else cost).argmin())
            table[device, used[device]] = e
            used[device] += 1
            held[device] += piece[e]
    _relieve(table, piece)
    return table


def _relieve(table: Ints, piece: Floats) -> None:
    """Swap what the busiest device has in a place for what another has, or has not, while that lowers both."""
    sizes = np.append(piece, 0.0)  # the last is that of an empty place, -1
    while True:
        held = sizes[table].sum(axis=1)
        top = int(held.argmax())
        change = sizes[table[top]][:, None, None] - sizes[table][None]  # place of top, device, place
        after = np.maximum(held[top] - change, held[None, :, None] + change)
        after[:, top] = np.inf
        after = np.where(change > TINY, after, np.inf)
        place, device, other = (int(i) for i in np.unravel_index(int(after.argmin()), after.shape))
        if after[place, device, other] >= held[top] - TINY:
            return
        table[top, place], table[device, other] = table[device, other], table[top, place]


def _held(table: Ints, piece: Floats) -> Floats:
    """Load of each device."""
    return np.asarray(np.append(piece, 0.0)[table].sum(axis=1))


def _least(load: Floats, devices: int, slots: int) -> float:
    """Load that the busiest device of one layer has at least: the mean, or what bisection shows to be impossible."""
    low = max(1.0 / devices, float((load / _copied(load, devices * slots, devices * slots)).max()))
    if devices * slots == len(load):  # every place is taken: the hottest expert has company
        ordered = np.sort(load)
        low = max(low, float(ordered[-1] + ordered[: slots - 1].sum()))
    low *= 1 - TINY
    high = 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _possible(load, middle, devices, slots) else (middle, high)
    return low


def _possible(load: Floats, limit: float, devices: int, slots: int) -> bool:
    """Whether copies with no more than a limit may fit; no is sure, yes is not.

    Of the copies above half the limit a device holds one. An expert has either as few copies as the limit
    allows or so many that they are below half; the cheapest experts to split so far are, in parts if need be.
    """
    few = np.maximum(1, np.ceil(load / limit * (1 - TINY)))
    many = np.maximum(few, np.ceil(2 * load / limit * (1 - TINY)))
    places = devices * slots - few.sum()
    large = load / few > limit / 2 * (1 + TINY)
    over = few[large].sum() - devices
    if places < 0 or over <= 0:
        return bool(places >= 0)
    seats, extra = few[large], (many - few)[large]
    order = np.argsort(extra / seats)
    taken = np.clip(over - (np.cumsum(seats[order]) - seats[order]), 0.0, seats[order])
    return bool((taken / seats[order] * extra[order]).sum() <= places * (1 + TINY))


def _stay(expert: Ints, copies: Ints, share: Floats) -> float:
    """Rename the devices of each layer, in place, so that most tokens stay; returns how often a token moves."""
    from scipy.optimize import linear_sum_assignment

    layers, devices, slots = expert.shape
    owner = np.repeat(np.arange(devices), slots)
    on = np.zeros((layers, share.shape[1] + 1, devices))
    for table, held in zip(expert, on, strict=True):
        np.add.at(held, (table.ravel(), owner), 1.0)  # empty places count in the last row, which is left out
    on = on[:, :-1] / copies[:, :, None]
    moves = 0.0
    for boundary, w in enumerate(share):
        flow = on[boundary].T @ w @ on[boundary + 1]
        _, name = linear_sum_assignment(flow, maximize=True)
        expert[boundary + 1] = expert[boundary + 1][name]
        on[boundary + 1] = on[boundary + 1][:, name]
        moves += float(w.sum() - flow[np.arange(devices), name].sum())
    return max(0.0, moves)
