"""What the routers of a mixture-of-experts model chose: experts of every token in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...hardware.errors import InputError

Experts = NDArray[np.int32]
Gates = NDArray[np.float32]

MOST = 65_536
"""Experts of a layer beyond which their count is taken for a mistake."""

_CHUNK = 2**22  # token slots checked at a time, so that a check needs little memory


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """Experts that tokens were sent to.

    Parameters
    ----------
    experts : array_like of int, shape (tokens, layers, k)
        Distinct ids within a token and layer. The first slot is the expert with the largest gate.
    count : int
        Experts of a layer; ids go from 0 to count - 1.
    gates : array_like of float, shape (tokens, layers, k), optional
        Weights of the experts' outputs. Where given, slots are put in order of falling gate.
    source : str
        Where the trace comes from.
    layer_numbers : sequence of int, optional
        Numbers of these layers in their model, where other layers have no experts.

    Raises
    ------
    InputError
        One line with token, layer and legal range.
    """

    experts: Experts
    count: int
    gates: Gates | None = None
    source: str = ""
    layer_numbers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        experts = _whole("experts", self.experts)
        if experts.ndim != 3:
            raise InputError(f"experts: {experts.ndim} dimensions (legal: 3, which are token, layer and slot)")
        if experts.size == 0:
            raise InputError(f"experts: no entry in shape {experts.shape} (legal: one token, layer and slot or more)")
        count = self.count
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= MOST:
            raise InputError(f"count: {count!r:.60} (legal: a whole number of experts, 1 to {MOST})")
        if experts.shape[2] > count:
            raise InputError(f"experts: {experts.shape[2]} slots among {count} experts (legal: 1 to {count})")
        _in_range(experts, int(count))
        experts = np.array(experts, dtype=np.int32, order="C")
        _distinct(experts)
        gates = self.gates if self.gates is None else _finite(self.gates, experts.shape)
        if gates is not None and bool((gates[..., 1:] > gates[..., :-1]).any()):
            order = np.argsort(-gates, axis=-1, kind="stable")
            experts, gates = np.take_along_axis(experts, order, -1), np.take_along_axis(gates, order, -1)
        if not isinstance(self.source, str):
            raise InputError(f"source: {self.source!r:.60} (legal: text)")
        for array in (experts, gates):
            if array is not None:
                array.setflags(write=False)
        for name, value in (
            ("experts", experts),
            ("count", int(count)),
            ("gates", gates),
            ("layer_numbers", _numbers(self.layer_numbers, experts.shape[1])),
        ):
            object.__setattr__(self, name, value)

    @property
    def tokens(self) -> int:
        """Tokens."""
        return int(self.experts.shape[0])

    @property
    def layers(self) -> int:
        """Layers with experts."""
        return int(self.experts.shape[1])

    @property
    def k(self) -> int:
        """Experts a token takes in a layer."""
        return int(self.experts.shape[2])

    @property
    def first(self) -> Experts:
        """Expert with the largest gate, shape (tokens, layers)."""
        return np.asarray(self.experts[:, :, 0])

    def describe(self) -> str:
        """One line for people."""
        said = f"{self.tokens} tokens, {self.layers} layers, {self.k} of {self.count} experts"
        return f"{said}: {self.source}" if self.source else said


def _whole(what: str, values: ArrayLike) -> NDArray[Any]:
    """Array of whole numbers."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{what}: tokens or layers have unlike numbers of slots (legal: as many in all)") from None
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{what}: values of type {array.dtype} (legal: whole numbers)")
    return array


def _in_range(experts: NDArray[Any], count: int) -> None:
    if int(experts.min()) >= 0 and int(experts.max()) < count:
        return
    token, layer, slot = np.argwhere((experts < 0) | (experts >= count))[0].tolist()
    raise InputError(
        f"experts: token {token}, layer {layer}: expert {experts[token, layer, slot]} (legal: 0 to {count - 1})"
    )


def _distinct(experts: Experts) -> None:
    tokens, layers, k = experts.shape
    rows = max(1, _CHUNK // (layers * k))
    for begin in range(0, tokens, rows):
        some = experts[begin : begin + rows]
        ordered = np.sort(some, axis=-1)
        twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
        if twice.any():
            token, layer = np.argwhere(twice)[0].tolist()
            ids = some[token, layer].tolist()
            raise InputError(
                f"experts: token {begin + token}, layer {layer}: {ids!s:.60} names an expert twice (legal: "
                "distinct experts)"
            )


def _finite(values: ArrayLike, shape: tuple[int, ...]) -> Gates:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise TypeError
        with np.errstate(over="ignore"):
            gates = np.array(array, dtype=np.float32, order="C")
    except (ValueError, TypeError):
        raise InputError("gates: are not numbers (legal: a number for each expert)") from None
    if gates.shape != shape:
        raise InputError(f"gates: shape {gates.shape} (legal: {shape}, as of experts)")
    bad = ~np.isfinite(gates)
    if bad.any():
        token, layer, slot = np.argwhere(bad)[0].tolist()
        raise InputError(f"gates: token {token}, layer {layer}: {gates[token, layer, slot]} (legal: finite numbers)")
    return gates


def _numbers(values: Any, layers: int) -> tuple[int, ...] | None:
    if values is None:
        return None
    numbers = _whole("layer_numbers", values)
    if numbers.shape != (layers,) or numbers.min() < 0 or (np.diff(numbers.astype(object)) <= 0).any():
        raise InputError(f"layer_numbers: {numbers.tolist()!s:.60} (legal: {layers} whole numbers that grow from 0 up)")
    return tuple(numbers.tolist())
