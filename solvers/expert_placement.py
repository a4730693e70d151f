"""Place the experts of a mixture-of-experts model so that tokens seldom change device between its layers.

ExFlow (arXiv 2401.08383, IPDPS 2024): tokens that use expert i of a layer tend to use few experts of the next,
so experts that follow each other are put on one device, or at least on one node. The published program is kept
(one device for each expert, equal numbers of a layer's experts on all devices, fewest moves), with tokens
counted by pair of experts; the published two stages, nodes and then the devices of each, are one of the starts.

A local search finds a placement (`placement_search`), each boundary alone says how few moves there must be
(`placement_bounds`), and where the integer program is small it closes what is left (`placement_program`). For a
few experts the best placement is found outright (`placement_exact`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError
from .placement_bounds import boundary_bound
from .placement_exact import few, shortest_path
from .placement_problem import PlacementProblem, counted, placed, placement_problem, shares
from .placement_program import fits, integer_program
from .placement_replicas import Replicas, replicate
from .placement_search import Search
from .placement_starts import chain, rank_order

__all__ = ["Placement", "Replicas", "crossings", "place_experts", "replicate", "round_robin"]

# A gap below this is the tolerance of the solvers that give the bound.
_PROVED = 1e-5
# Parts of the time limit after which the bounds, and a search that the program follows, have to be done.
_BOUNDING, _SEARCHING = 0.1, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which device holds each expert, and how good that is.

    Parameters
    ----------
    device : ndarray of int, shape (layers, experts)
        Device of each expert; devices are numbered node by node.
    devices, nodes : int
        How many there are.
    cost : float
        Weighted moves of a token through all layers: ``device_cost`` for each inside a node and ``node_cost``
        for each between nodes.
    bound : float
        No placement that is balanced at least as well has a lower cost.
    gap : float
        ``1 - bound / cost``, 0 when proved the best.
    status : str
        "optimal" (proved), "heuristic" (a better one may exist), or "time limit" (the same, and time cut
        the search or the proof short).
    seconds : float
        Wall-clock time it took.
    crossings : float
        Changes of device of a token through all layers, those between nodes among them.
    node_crossings : float
        Changes of node.
    deviation : float
        From balance, as defined at `place_experts`; 0 under hard balance.
    """

    device: NDArray[np.int64]
    devices: int
    nodes: int
    cost: float
    bound: float
    gap: float
    status: str
    seconds: float
    crossings: float
    node_crossings: float
    deviation: float = 0.0


def round_robin(layers: int, experts: int, devices: int) -> NDArray[np.int64]:
    """Place experts by rank order, the baseline of the paper: the first experts / devices on the first device.

    Returns
    -------
    ndarray of int, shape (layers, experts)

    Raises
    ------
    InputError
        For numbers below 1, and for devices that do not divide the experts.
    """
    for value, name in ((layers, "layers"), (experts, "experts"), (devices, "devices")):
        counted(value, name)
    if experts % devices:
        raise InputError(f"devices: {devices} do not divide {experts} experts (legal: a divisor of {experts})")
    return rank_order(layers, experts, devices)


def crossings(
    pairs: ArrayLike, device: ArrayLike, nodes: int = 1, *, devices: int | None = None
) -> tuple[float, float]:
    """Count how often a token changes device, and node, through all layers.

    Parameters
    ----------
    pairs : array_like, shape (layers - 1, experts, experts)
        As in `place_experts`.
    device : array_like of int, shape (layers, experts)
        Device of each expert; devices are numbered node by node.
    nodes : int, default 1
        Equal runs of devices.
    devices : int, optional
        How many there are; by default one more than the largest number in `device`.

    Returns
    -------
    tuple of float
        Changes of device, and those of them that change the node too, per token.

    Raises
    ------
    InputError
        For shapes that do not fit and numbers outside their range.
    """
    share = shares(pairs)
    given = placed(device, len(share) + 1, share.shape[1])
    count = int(given.max()) + 1 if devices is None else devices
    counted(count, "devices")
    counted(nodes, "nodes")
    if given.max() >= count:
        raise InputError(f"device: {given.max()} (legal: 0 to {count - 1})")
    if count % nodes:
        raise InputError(f"nodes: {nodes} does not divide {count} devices (legal: a divisor of {count})")
    return PlacementProblem(share, 1.0 - np.eye(count), nodes).crossings(given)


def place_experts(
    pairs: ArrayLike,
    devices: int,
    nodes: int = 1,
    *,
    load: ArrayLike | None = None,
    balance: str = "hard",
    penalty: float = 1.0,
    eta: float = 1.0,
    node_cost: float = 2.0,
    device_cost: float = 1.0,
    time_limit: float = 10.0,
    seed: int = 0,
    restarts: int = 8,
    kicks: int = 60,
    prove: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Placement:
    """Place experts on devices with as few moves of tokens as can be found.

    Parameters
    ----------
    pairs : array_like, shape (layers - 1, experts, experts)
        Tokens that go from expert i of a layer to expert j of the next, in any unit: each boundary is divided
        by its total, and one without tokens costs nothing.
    devices : int
        Number of devices.
    nodes : int, default 1
        Equal runs of devices; a move from one to another costs `node_cost`.
    load : array_like, shape (layers, experts), optional
        Tokens of each expert in any unit, to be spread evenly under penalised balance.
    balance : str, default "hard"
        "hard": each device has experts / devices experts of every layer. "penalised": it has as many in total
        over all layers, and the objective is ``cost + penalty * deviation``, where the deviation is the mean
        over layers of the sum over devices of ``|n - E/C| / (E/C)``, n of a layer's E experts being on one of
        C devices; with `load`, the same sum over tokens is added.
    penalty : float, default 1
        Weight of the deviation [moves].
    eta : float, default 1
        Below 1, and under penalised balance, a device has at least ``ceil(eta * E/C)`` experts of every layer;
        at 1 nothing but the penalty holds the numbers together.
    node_cost, device_cost : float, default 2 and 1
        Cost of a token's move between nodes, and inside a node; those in the names of the published placements.
    time_limit : float, default 10
        For all of it [s]. An answer that is not cut short by it depends on the arguments alone.
    seed : int, default 0
        Of all draws.
    restarts : int, default 8
        Placements to begin from: threads of experts, the two stages, rank order, chains of layers, and again.
    kicks : int, default 60
        Times the best of these is disturbed and improved again.
    prove : bool, default True
        Whether to spend time on the bound: a linear program per boundary, and a shortest path or the integer
        program where these are small. Without, the bound is a rough one.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    Placement
        Never worse than rank order, where that is balanced, in what is minimised.

    Raises
    ------
    InputError
        For whatever is outside its legal range.
    """
    import scipy.optimize  # noqa: F401  (loaded before the clock runs: it takes seconds on a busy machine)

    begin = perf_counter()
    problem = placement_problem(
        pairs, devices, nodes,
        load=load, balance=balance, penalty=penalty, eta=eta, node_cost=node_cost, device_cost=device_cost,
    )  # fmt: skip
    counted(restarts, "restarts")
    for name, value in (("kicks", kicks), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise InputError(f"{name}: {value!r} (legal: a whole number, 0 or more)")
    if not (np.isfinite(time_limit) and time_limit > 0):
        raise InputError(f"time_limit: {time_limit} (legal: a finite number of seconds above 0)")
    done, total = 0, problem.layers - 1 + restarts + kicks + 1

    def tick(upto: int | None = None) -> None:
        nonlocal done
        done = done + 1 if upto is None else upto
        if progress is not None:
            progress(done, total)

    bound = boundary_bound(problem, begin + time_limit * _BOUNDING if prove else begin, tick)
    exact = prove and few(problem)
    program = prove and not exact and fits(problem, time_limit)
    search = Search(problem, np.random.default_rng(seed), begin + time_limit * (_SEARCHING if program else 1.0))
    even = problem.experts % devices == 0
    search.offer(rank_order(problem.layers, problem.experts, devices) if even else chain(problem, search.random))
    best = shortest_path(problem, search.until) if exact and not _near(search.best_value, bound) else None
    if best is not None:
        bound = search.offer(best)
    search.run(restarts, kicks, bound * (1 + _PROVED), tick)
    device, late, closed = search.best, search.cut, False
    tick(total - 1)
    if program and not _near(search.best_value, bound):
        answer = integer_program(problem, device, begin + time_limit - perf_counter())
        device = answer.device
        closed = _near(problem.objective(device), answer.bound)
        late = not closed
        # The program bounds the objective; with as little deviation as here the rest is cost.
        bound = max(bound, answer.bound - problem.penalty * problem.deviation(device))
    cost = problem.cost(device)
    bound = min(bound, cost)
    gap = 0.0 if _near(cost, bound) else 1 - bound / cost
    deviation = problem.deviation(device)
    # A cost no placement is below is the best only if deviation costs nothing, or the program weighed both.
    proved = gap == 0 and (not problem.penalty * deviation or closed)
    tick(total)
    changes, node_changes = problem.crossings(device)
    return Placement(
        device,
        int(devices),
        int(nodes),
        cost,
        bound,
        gap,
        "optimal" if proved else "time limit" if late else "heuristic",
        perf_counter() - begin,
        changes,
        node_changes,
        deviation,
    )


def _near(value: float, bound: float) -> bool:
    """Whether the bound proves the value the least."""
    return value <= bound * (1 + _PROVED)
