"""Placements to begin a search from: chains of layers, and threads of experts that tokens follow."""

from __future__ import annotations

import numpy as np

from .placement_problem import TINY, Floats, Ints, PlacementProblem

# Part of the largest share that noise adds when threads are drawn again.
_NOISE = 0.05


def rank_order(layers: int, experts: int, devices: int) -> Ints:
    """Experts in runs of equal length, shape (layers, experts)."""
    return np.tile(np.arange(experts) * devices // experts, (layers, 1))


def chain(problem: PlacementProblem, random: np.random.Generator) -> Ints:
    """Place the first layer at random, and each that follows as well as can be behind the one before."""
    from scipy.optimize import linear_sum_assignment

    spread = problem.spread()
    on = np.arange(problem.devices)
    device = np.empty((problem.layers, problem.experts), dtype=np.int64)
    device[0] = random.permutation(np.repeat(on, spread[0]))
    for boundary, share in enumerate(problem.share):
        cost = share.T @ problem.price[device[boundary]]
        place = np.repeat(on, spread[boundary + 1])
        device[boundary + 1] = place[linear_sum_assignment(cost[:, place])[1]]
    return device


def threads(problem: PlacementProblem, random: np.random.Generator, noisy: bool = False) -> Ints:
    """Follow the tokens from each expert of the first layer to the last, and place whole threads together.

    The thread of an expert goes on with the one that an assignment of all experts of a layer to those of
    the next gives it. Threads that exchange many tokens share a node, and within it a device.
    """
    from scipy.optimize import linear_sum_assignment

    count = problem.experts
    thread = np.empty((problem.layers, count), dtype=np.int64)
    thread[0] = np.arange(count)
    met = np.zeros((count, count))
    for boundary, share in enumerate(problem.share):
        drawn = share + random.random(share.shape) * (_NOISE * share.max()) if noisy else share
        thread[boundary + 1] = linear_sum_assignment(drawn, maximize=True)[1][thread[boundary]]
        met += share[np.ix_(thread[boundary], thread[boundary + 1])]
    met += met.T.copy()
    group = _groups(met, problem.nodes, random)
    inside = problem.devices // problem.nodes
    on = np.empty(count, dtype=np.int64)
    for node in range(problem.nodes):
        some = np.flatnonzero(group == node)
        on[some] = node * inside + _groups(met[np.ix_(some, some)], inside, random)
    device = np.empty_like(thread)
    np.put_along_axis(device, thread, np.tile(on, (problem.layers, 1)), axis=1)
    return device


def relabelled(problem: PlacementProblem, device: Ints) -> Ints:
    """Give devices (and whole nodes) of each layer the names under which most tokens stay; they keep their experts.

    Names of all layers after a boundary change alike, so each boundary is by itself: an assignment of devices
    for each pair of nodes, and one of the nodes.
    """
    from scipy.optimize import linear_sum_assignment

    nodes, inside = problem.nodes, problem.devices // problem.nodes
    on = np.eye(problem.devices)
    saved = float(problem.price.max()) - problem.price
    near = saved[0, inside - 1]  # what two devices of a node save, or one device if it has no other
    device = device.copy()
    for boundary, share in enumerate(problem.share):
        flow = on[device[boundary]].T @ share @ on[device[boundary + 1]]
        worth, inner = np.empty((nodes, nodes)), np.empty((nodes, nodes, inside), dtype=np.int64)
        for x in range(nodes):
            for y in range(nodes):
                block = flow[x * inside : (x + 1) * inside, y * inside : (y + 1) * inside]
                inner[x, y] = linear_sum_assignment(block, maximize=True)[1]
                stays = block[np.arange(inside), inner[x, y]].sum()
                worth[x, y] = saved[0, 0] * stays + near * (block.sum() - stays)
        name = np.empty(problem.devices, dtype=np.int64)
        for x, y in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            name[y * inside + inner[x, y]] = x * inside + np.arange(inside)
        before = (flow * problem.price).sum()
        back = np.argsort(name)
        if (flow[:, back] * problem.price).sum() < before - TINY:
            device[boundary + 1 :] = name[device[boundary + 1 :]]
    return device


def _groups(met: Floats, count: int, random: np.random.Generator) -> Ints:
    """Divide into equal groups that meet often: grown one by one, then improved by the best swaps of two."""
    total = len(met)
    group = np.full(total, -1)
    for g in range(count):
        free = np.flatnonzero(group < 0)
        new = int(random.choice(free))
        near = met[new].copy()
        group[new] = g
        for _ in range(total // count - 1):
            new = int(np.where(group < 0, near, -1.0).argmax())
            group[new] = g
            near += met[new]
    held = met @ np.eye(count)[group]
    own = np.arange(total)
    for _ in range(4 * total):
        gain = held[:, group] - held[own, group][:, None]
        gain = np.where(group[:, None] != group, gain + gain.T - 2 * met, 0.0)
        i, j = np.divmod(int(gain.argmax()), total)
        if gain[i, j] <= TINY:
            break
        change = met[:, i] - met[:, j]
        held[:, group[j]] += change
        held[:, group[i]] -= change
        group[i], group[j] = group[j], group[i]
    return group
