"""Exchange experts of two devices in many layers at once: one dynamic program over the layers.

To place one layer anew is of no use where an expert and those its tokens come from and go to should move
together. Here a device gives one expert to another device in each of any of the layers, and gets one back.
What that saves depends on neighbouring layers only, so the best such exchange is a shortest path: the state
at a layer is which expert goes and which comes. Under penalised balance a layer may see one of the two alone,
if another layer sees the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .placement_problem import TINY, Floats, Ints
from .placement_state import State

# Experts of a device and layer that are offered; all up to twice as many, a program grows with the fourth power.
_OFFERED = 6


class Exchange(NamedTuple):
    """What exchanging saves, and the expert that each device of a pair gives by layer (-1 for none)."""

    saved: float
    gives: Ints
    gets: Ints


def exchange(state: State, random: np.random.Generator, over: Callable[[], bool] = lambda: False) -> bool:
    """Try pairs of devices that changed since they were tried, many at a time, until it is over.

    Returns whether an exchange saved anything.
    """
    changed = False
    for first, second in _matchings(state.problem.devices):
        wanted = state.stale_pair[first, second]
        if not wanted.any():
            continue
        if over():
            break
        a, b = first[wanted], second[wanted]
        state.stale_pair[a, b] = False
        applied: list[int] = []
        found = best_exchanges(state, a, b, random)
        for p in np.argsort([-e.saved for e in found]).tolist():
            if found[p].saved <= TINY:
                break
            if any(_interact(state.problem.price, a[p], b[p], a[q], b[q]) for q in applied):
                state.stale_pair[a[p], b[p]] = True
                continue
            applied.append(p)
            for layer, (i, j) in enumerate(zip(found[p].gives.tolist(), found[p].gets.tolist(), strict=True)):
                moves = [(e, d) for e, d in ((i, b[p]), (j, a[p])) if e >= 0]
                if moves:
                    state.move(layer, np.array([e for e, _ in moves]), np.array([d for _, d in moves]))
        changed = changed or bool(applied)
    return changed


def best_exchanges(state: State, a: Ints, b: Ints, random: np.random.Generator) -> list[Exchange]:
    """Best exchange of each pair of devices (a, b), all of them different devices.

    Parameters
    ----------
    state : State
    a, b : ndarray of int, shape (pairs,)
    random : numpy.random.Generator
        Draws which experts of large devices are offered.
    """
    problem = state.problem
    pairs = len(a)
    members = _members(state)
    gives, cost_a = _offers(state, members, a, b, random)
    gets, cost_b = _offers(state, members, b, a, random)
    size = gives.shape[2]  # the last stands for none
    alone = cost_a[..., :, None] + cost_b[..., None, :]
    shift = np.zeros((size, size), dtype=np.int64)
    if problem.least is None:
        alone[..., :-1, -1] = alone[..., -1, :-1] = np.inf
        shifts = [0]
    else:
        alone += _balance(state, a, b, gives, gets)
        shift[:-1, -1], shift[-1, :-1] = 1, -1
        shifts = [-1, 0, 1]
    flat = shift.ravel()
    alone = alone.reshape(problem.layers, pairs, size * size)
    # Two experts that move the same way stay together, two that pass each other part.
    double = 2 * problem.price[a, b][:, None, None]
    boundary, flat_share = np.arange(problem.layers - 1)[:, None, None, None], problem.share.ravel()

    def met(one: Ints, other: Ints) -> Floats:
        x, y = one[:-1, :, :, None], other[1:, :, None, :]
        place = (boundary * problem.experts + np.maximum(x, 0)) * problem.experts + np.maximum(y, 0)
        return np.asarray(flat_share.take(place) * ((x >= 0) & (y >= 0)) * double)

    # What is saved at a boundary, by what the upper layer gives or gets and the state of the lower layer.
    state_shape = (problem.layers - 1, pairs, size, size * size)
    giving = (met(gives, gives)[..., :, None] - met(gives, gets)[..., None, :]).reshape(state_shape)
    getting = (met(gets, gives)[..., :, None] - met(gets, gets)[..., None, :]).reshape(state_shape)
    value = np.full((pairs, len(shifts), size * size), np.inf)
    for k, s in enumerate(shifts):
        value[:, k] = np.where(flat == s, alone[0], np.inf)
    origin = []
    for above in range(problem.layers - 1):
        both = value.reshape(pairs, len(shifts), size, size, 1) + getting[above][:, None, None]
        got = both.argmin(axis=3)
        step = both.min(axis=3) - giving[above][:, None]
        given = step.argmin(axis=2)[:, :, None]
        origin.append((given * size + np.take_along_axis(got, given, axis=2))[:, :, 0])
        least = step.min(axis=2) + alone[above + 1][:, None]
        value = np.full_like(value, np.inf)
        for k, s in enumerate(shifts):
            for sign in (-1, 0, 1):
                if s - sign in shifts:
                    value[:, k] = np.where(flat == sign, least[:, shifts.index(s - sign)], value[:, k])
    end = value[:, shifts.index(0)]
    last = end.argmin(axis=1)
    found = []
    for p in range(pairs):
        chosen, k, at = [int(last[p])], shifts.index(0), int(last[p])
        for before in reversed(origin):
            k -= int(flat[at])
            at = int(before[p, k, at])
            chosen.append(at)
        i, j = np.divmod(np.array(chosen[::-1]), size)
        layer = np.arange(problem.layers)
        found.append(Exchange(-float(end[p, last[p]]), gives[layer, p, i], gets[layer, p, j]))
    return found


def _matchings(devices: int) -> list[tuple[Ints, Ints]]:
    """Every pair of devices once, in rounds of pairs that share none: the rounds of a tournament."""
    players = list(range(devices + devices % 2))
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        games = zip(players[:half], reversed(players[half:]), strict=True)
        drawn = np.array([sorted(game) for game in games if max(game) < devices], dtype=np.int64).reshape(-1, 2)
        rounds.append((drawn[:, 0], drawn[:, 1]))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _interact(price: Floats, a: int, b: int, c: int, d: int) -> bool:
    """Whether what one exchange saves depends on the other."""
    return bool(abs(price[b, d] - price[b, c] - price[a, d] + price[a, c]) > 0)


def _members(state: State) -> Ints:
    """Experts by layer and device, padded with -1, shape (layers, devices, most)."""
    device, counts = state.device, state.counts
    order = np.argsort(device, axis=1, kind="stable")
    layer = np.arange(len(device))[:, None]
    owner = device[layer, order]
    place = np.arange(device.shape[1]) - (np.cumsum(counts, axis=1) - counts)[layer, owner]
    members = np.full((*counts.shape, int(counts.max())), -1)
    members[layer, owner, place] = order
    return members


def _offers(
    state: State, members: Ints, source: Ints, target: Ints, random: np.random.Generator
) -> tuple[Ints, Floats]:
    """Experts a device may give to another and what their moves cost alone; the last stands for none."""
    own = members[:, source]
    layer = np.arange(len(own))[:, None, None]
    cost = state.table[layer, own, target[:, None]] - state.table[layer, own, source[:, None]]
    cost[own < 0] = np.inf
    if own.shape[2] > 2 * _OFFERED:
        # Half are the cheapest alone, half any: what pays with its neighbours only may look dear alone.
        rank = np.argsort(np.argsort(cost, axis=2), axis=2)
        draw = np.where(np.isfinite(cost), random.random(cost.shape), 2.0)
        some = np.argsort(np.where(rank < _OFFERED, -1.0, draw), axis=2)[:, :, : 2 * _OFFERED]
        own, cost = np.take_along_axis(own, some, axis=2), np.take_along_axis(cost, some, axis=2)
    none = np.zeros((*own.shape[:2], 1))
    return np.concatenate([own, none.astype(np.int64) - 1], axis=2), np.concatenate([cost, none], axis=2)


def _balance(state: State, a: Ints, b: Ints, gives: Ints, gets: Ints) -> Floats:
    """What each exchange of one layer adds to the weighted deviation, infinite where a device is left with too few."""
    problem = state.problem
    assert problem.least is not None
    net = (gives >= 0).astype(np.int64)[..., :, None] - (gets >= 0).astype(np.int64)[..., None, :]
    change = np.zeros(net.shape)
    weight = np.zeros((2, *net.shape[:3]))
    layer = np.arange(len(gives))[:, None, None]
    if problem.load is not None:
        for k, some in enumerate((gives, gets)):
            weight[k] = np.where(some >= 0, problem.load[layer, some], 0.0)
    heavier = weight[0][..., :, None] - weight[1][..., None, :]
    for device, sign in ((a, -1), (b, 1)):
        count, load = state.counts[:, device, None, None], state.loads[:, device, None, None]
        change += problem.uneven_count(count + sign * net) - problem.uneven_count(count)
        change += problem.uneven_load(load + sign * heavier) - problem.uneven_load(load)
        change[(count + sign * net < problem.least) & (sign * net < 0)] = np.inf
    # inf times a penalty of 0 is no number
    return np.where(np.isfinite(change), problem.penalty * np.where(np.isfinite(change), change, 0.0), np.inf)
