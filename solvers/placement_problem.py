"""The data of an expert placement: where tokens go between layers, what a move costs, and what balance is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Objectives closer than this are the same: shares of tokens are summed in different orders.
TINY = 1e-11


@dataclass(frozen=True, slots=True, eq=False)
class PlacementProblem:
    """Experts of several layers to be placed on devices; build one with `placement_problem`.

    Parameters
    ----------
    share : ndarray, shape (layers - 1, experts, experts)
        Part of the tokens that go from expert i of a layer to expert j of the next; a boundary adds up to 1,
        or to 0 when no token passed it.
    price : ndarray, shape (devices, devices)
        Cost of a token's move from one device to another, 0 on the diagonal.
    nodes : int
        Equal runs of devices.
    least : int or None
        Experts of a layer that a device has at least; None when each has exactly ``experts / devices``.
    penalty : float
        Weight of the deviation from balance.
    load : ndarray, shape (layers, experts), optional
        Part of a layer's tokens that each expert gets.
    """

    share: Floats
    price: Floats
    nodes: int = 1
    least: int | None = None
    penalty: float = 0.0
    load: Floats | None = None

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.share) + 1

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return int(self.share.shape[1])

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.price)

    @property
    def node(self) -> Ints:
        """Node of each device."""
        return np.arange(self.devices) // (self.devices // self.nodes)

    def counts(self, device: Ints) -> Ints:
        """Experts by layer and device, shape (layers, devices)."""
        return np.array([np.bincount(row, minlength=self.devices) for row in device])

    def loads(self, device: Ints) -> Floats:
        """Tokens by layer and device, shape (layers, devices), as parts of the layer's; zeros without `load`."""
        if self.load is None:
            return np.zeros((len(device), self.devices))
        rows = zip(device, self.load, strict=True)
        return np.array([np.bincount(row, weights=load, minlength=self.devices) for row, load in rows])

    def cost(self, device: Ints) -> float:
        """Weighted moves of a token through all layers."""
        return sum(float((w * self.price[np.ix_(a, b)]).sum()) for w, a, b in self._boundaries(device))

    def crossings(self, device: Ints) -> tuple[float, float]:
        """Changes of device, and of node, of a token through all layers."""
        node = self.node
        changes = [
            ((w * (a[:, None] != b)).sum(), (w * (node[a][:, None] != node[b])).sum())
            for w, a, b in self._boundaries(device)
        ]
        return float(sum(c for c, _ in changes)), float(sum(n for _, n in changes))

    def deviation(self, device: Ints) -> float:
        """Mean over layers of how far devices are from equal numbers of experts, and of tokens if known.

        Each is the sum over devices of ``|mine - equal part| / equal part``, as the paper's fused objective
        has it for the number of experts.
        """
        if self.least is None:
            return 0.0
        return float(self.uneven_count(self.counts(device)).sum() + self.uneven_load(self.loads(device)).sum())

    def uneven_count(self, count: Ints) -> Floats:
        """What devices with so many experts of one layer add to the deviation, elementwise."""
        equal = self.experts / self.devices
        return np.asarray(np.abs(count - equal) / (equal * self.layers))

    def uneven_load(self, load: Floats) -> Floats:
        """What devices with such parts of a layer's tokens add to the deviation, elementwise."""
        if self.load is None:
            return np.zeros_like(load)
        return np.asarray(np.abs(load * self.devices - 1) / self.layers)

    def objective(self, device: Ints) -> float:
        """What is minimised: cost and weighted deviation."""
        return self.cost(device) + self.penalty * self.deviation(device)

    def spread(self) -> Ints:
        """Numbers of experts by layer and device as even as can be, shape (layers, devices); equal in total."""
        few, extra = divmod(self.experts, self.devices)
        counts = np.full((self.layers, self.devices), few)
        for layer, row in enumerate(counts):  # those left over go round the devices
            row[(layer * extra + np.arange(extra)) % self.devices] += 1
        return counts

    def _boundaries(self, device: Ints) -> list[tuple[Floats, Ints, Ints]]:
        return list(zip(self.share, device[:-1], device[1:], strict=True))


def placement_problem(
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
) -> PlacementProblem:
    """Check the data of a placement and put it into arrays.

    Parameters
    ----------
    pairs, devices, nodes, load, balance, penalty, eta, node_cost, device_cost
        As in `place_experts`.

    Raises
    ------
    InputError
        For whatever is outside its legal range.
    """
    share = shares(pairs)
    layers, experts = len(share) + 1, share.shape[1]
    counted(devices, "devices")
    counted(nodes, "nodes")
    if devices % nodes:
        raise InputError(f"nodes: {nodes} does not divide {devices} devices (legal: {_divisors(devices)})")
    if balance not in ("hard", "penalised"):
        raise InputError(f"balance: {balance!r} (legal: 'hard', 'penalised')")
    for name, value in (("penalty", penalty), ("device_cost", device_cost)):
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name}: {value} (legal: a finite number, 0 or more)")
    if not (np.isfinite(node_cost) and node_cost >= device_cost):
        raise InputError(f"node_cost: {node_cost} (legal: a finite number, device_cost = {device_cost} or more)")
    if not 0 < eta <= 1:
        raise InputError(f"eta: {eta} (legal: above 0, at most 1)")
    node = np.arange(devices) // (devices // nodes)
    price = np.where(node[:, None] == node, device_cost, node_cost) * (1.0 - np.eye(devices))
    if balance == "hard":
        if experts % devices:
            raise InputError(
                f"devices: {devices} do not divide {experts} experts "
                f"(legal: {_divisors(experts)}; or balance 'penalised')"
            )
        if load is not None:
            raise InputError("load: given with balance 'hard', which counts experts (legal: balance 'penalised')")
        return PlacementProblem(share, price, nodes)
    if layers * experts % devices:
        raise InputError(
            f"devices: {devices} do not divide the {layers * experts} experts of all layers "
            f"(legal: {_divisors(layers * experts)})"
        )
    # Rounded first, for eta is seldom exact: 0.3 of 10 experts are 3 and not 4.
    least = int(np.ceil(round(eta * experts / devices, 9))) if eta < 1 else 0
    if least * devices > experts:
        raise InputError(
            f"eta: {eta} asks for {least} experts of a layer on each of {devices} devices, more than its {experts} "
            f"(legal: at most {experts // devices * devices / experts:.4g})"
        )
    return PlacementProblem(share, price, nodes, least, penalty, None if load is None else loads(load, layers, experts))


def shares(pairs: ArrayLike) -> Floats:
    """Pair counts as parts of the tokens of each boundary, shape (layers - 1, experts, experts).

    Raises
    ------
    InputError
        For another shape, and for counts that are negative or not finite.
    """
    counts = _numbers(pairs, "pairs", 3)
    if counts.shape[0] < 1 or counts.shape[1] < 1 or counts.shape[1] != counts.shape[2]:
        raise InputError(f"pairs: shape {counts.shape} (legal: (layers - 1, experts, experts), 2 layers or more)")
    # Divided by the largest first, so that the total of huge counts is finite too.
    counts = counts / np.maximum(counts.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    total = counts.sum(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(counts, total, out=np.zeros_like(counts), where=total > 0))


def loads(load: ArrayLike, layers: int | None = None, experts: int | None = None) -> Floats:
    """Token counts as parts of each layer's, shape (layers, experts); equal parts where a layer has none.

    Raises
    ------
    InputError
        For another shape, and for counts that are negative or not finite.
    """
    counts = _numbers(load, "load", 2)
    wanted = (layers or len(counts), experts or counts.shape[1])
    if 0 in counts.shape or counts.shape != wanted:
        legal = f"({layers}, {experts})" if layers else "(layers, experts), 1 or more of each"
        raise InputError(f"load: shape {counts.shape} (legal: {legal})")
    counts = counts / np.maximum(counts.max(axis=1, keepdims=True), np.finfo(float).tiny)
    total = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(counts, total, out=np.full_like(counts, 1 / counts.shape[1]), where=total > 0))


def placed(device: ArrayLike, layers: int, experts: int) -> Ints:
    """Return the device of each expert as whole numbers, shape (layers, experts).

    Raises
    ------
    InputError
        For another shape and for what is not a device number.
    """
    given = _numbers(device, "device", 2)
    if given.shape != (layers, experts):
        raise InputError(f"device: shape {given.shape} (legal: ({layers}, {experts}), layers and experts of pairs)")
    if (given != np.floor(given)).any():
        where = tuple(int(i) for i in np.argwhere(given != np.floor(given))[0])
        raise InputError(f"device{list(where)}: {given[where]} (legal: a whole number, 0 or more)")
    return given.astype(np.int64)


def counted(value: int, name: str) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: {value!r} (legal: a whole number, 1 or more)")


def _numbers(values: ArrayLike, name: str, axes: int) -> Floats:
    try:
        given = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{name}: not an array of numbers (legal: numbers in {axes} dimensions)") from None
    if given.ndim != axes:
        raise InputError(f"{name}: shape {given.shape} (legal: {axes} dimensions)")
    bad = ~(np.isfinite(given) & (given >= 0))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}{list(where)}: {given[where]} (legal: a finite number, 0 or more)")
    return given


def _divisors(number: int) -> str:
    found = [str(d) for d in range(1, number + 1) if number % d == 0]
    return ", ".join(found if len(found) <= 12 else [*found[:11], "..."])
