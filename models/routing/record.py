"""Record the routing of a model of torch while it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .trace import RoutingTrace

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAMES = ("gate", "router", "gating", "wg")
"""Last part of the names that models give their routers."""

_TOP = ("top_k", "topk", "num_experts_per_tok", "moe_top_k", "k")
_COUNT = ("num_experts", "n_routed_experts", "num_local_experts", "out_features")

Choose = Callable[[Any], Any]
Routers = str | Callable[[str, Any], bool] | Mapping[str, Any] | None


class Recording:
    """What routers chose so far.

    Parameters
    ----------
    names : sequence of str
        Routers, in the order of the model.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._chosen: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        self._gates: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        self._counts: dict[str, int] = {}

    def add(self, name: str, chosen: NDArray[Any], gates: NDArray[Any] | None, count: int) -> None:
        """Append tokens to a router's, both of shape (tokens, k)."""
        if self._counts.setdefault(name, count) != count:
            raise InputError(f"{name}: {count} experts, and {self._counts[name]} in a call before (legal: as many)")
        self._chosen[name].append(chosen)
        if gates is not None:
            self._gates[name].append(gates)

    def trace(self, source: str = "") -> RoutingTrace:
        """Make the trace of all calls, one after the other.

        Raises
        ------
        InputError
            Where layers have unlike numbers of tokens, experts or slots, or no call was recorded.
        """
        shapes = {}
        for name in self.names:
            slots = {part.shape[1] for part in self._chosen[name]} or {0}
            tokens = sum(len(part) for part in self._chosen[name])
            if not tokens:
                raise InputError(f"{name}: no token passed this router (legal: as many in every layer)")
            if len(slots) > 1:
                raise InputError(f"{name}: {' and '.join(map(str, sorted(slots)))} slots in its calls (legal: as many)")
            shapes[name] = (tokens, self._counts[name], slots.pop())
        first = self.names[0]
        for what, (name, shape) in ((w, s) for s in shapes.items() for w in range(3)):
            if shape[what] != shapes[first][what]:
                kind = ("tokens", "experts", "slots")[what]
                raise InputError(
                    f"{name}: {shape[what]} {kind}, and {first} has {shapes[first][what]} (legal: as many in every "
                    "layer)"
                )
        gates = None
        if all(len(self._gates[name]) == len(self._chosen[name]) for name in self.names):
            gates = np.stack([np.concatenate(self._gates[name]) for name in self.names], axis=1)
        experts = np.stack([np.concatenate(self._chosen[name]) for name in self.names], axis=1)
        return RoutingTrace(experts, self._counts[first], gates, source, self._numbers())

    def _numbers(self) -> tuple[int, ...] | None:
        """Layers' numbers, from the names of their routers."""
        found = [re.search(r"(?:^|\.)(\d+)\.", name) for name in self.names]
        numbers = [int(match.group(1)) for match in found if match is not None]
        grow = all(a < b for a, b in pairwise(numbers))
        return tuple(numbers) if len(numbers) == len(self.names) and grow else None


@contextmanager
def record_routing(
    model: nn.Module, routers: Routers = None, top_k: int | None = None, choose: Choose | None = None
) -> Iterator[Recording]:
    """Collect which experts tokens take, while the model runs inside `with`.

    Batch and sequence are one row of tokens, in their order; calls follow each other. Ids are kept on the CPU.

    Parameters
    ----------
    model : torch.nn.Module
    routers : str or callable, optional
        Regular expression that is found in the names of routers, or a function of name and module. Default the modules
        whose last name is one of `NAMES` and whose outputs can be those of a router.
    top_k : int, optional
        Experts a token takes, of routers that return logits alone. Default what router, block or configuration say.
    choose : callable, optional
        From what a router returns to ids, or to ids and gates, of shape (..., k). Default: ids where the router
        returns whole numbers, else what the block's `route_tokens_to_experts` makes of the logits, else their largest.

    Yields
    ------
    Recording
        Its `trace()` is the routing of all calls.

    Raises
    ------
    InputError
        Where no router is found, or an output is none of a router.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.ModuleDict({"gate": torch.nn.Linear(4, 8)})
    >>> with record_routing(model, top_k=2) as recording:
    ...     _ = model["gate"](torch.ones(3, 5, 4))
    >>> recording.trace().describe()
    '15 tokens, 1 layers, 2 of 8 experts'
    """
    found = _find(model, routers)
    recording = Recording(list(found))
    modules = dict(model.named_modules())
    handles = []
    for name, module in found.items():
        block = modules[name.rpartition(".")[0]] if name else module
        reader = _Reader(name, module, block, getattr(model, "config", None), top_k, choose)

        def hook(_: Any, __: Any, output: Any, name: str = name, reader: _Reader = reader) -> None:
            recording.add(name, *reader(output))

        handles.append(module.register_forward_hook(hook))
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _find(model: Any, routers: Any) -> dict[str, nn.Module]:
    """Routers by name, in the model's order."""
    named = dict(model.named_modules())
    if routers is None:
        found = {name: module for name, module in named.items() if name.rpartition(".")[2] in NAMES}
        looked = f"modules named {', '.join(NAMES)}"
    elif isinstance(routers, str):
        try:
            pattern = re.compile(routers)
        except re.error as problem:
            raise InputError(f"routers: {routers!r:.60}: {problem} (legal: a regular expression)") from None
        found = {name: module for name, module in named.items() if pattern.search(name)}
        looked = f"modules whose names have {routers!r:.60}"
    else:
        found = {name: module for name, module in named.items() if routers(name, module)}
        looked = "modules for which the function is true"
    if not found:
        some = [name for name in named if name and not list(named[name].children())]
        raise InputError(f"routers: no router among {len(named)} modules, looked for {looked} (legal: a pattern or a "
                         f"function that finds some of {', '.join(some[:4])}, …)")  # fmt: skip
    return found


class _Reader:
    """Reads ids, gates and the number of experts from what a router returns."""

    def __init__(self, name: str, module: Any, block: Any, config: Any, top_k: int | None, choose: Any) -> None:
        self.name, self.choose = name, choose
        self.holders = (module, block, config)
        self.block, self.top_k = block, top_k

    def __call__(self, output: Any) -> tuple[NDArray[Any], NDArray[Any] | None, int]:
        import torch

        with torch.no_grad():
            tensors = _tensors(output)
            if self.choose is not None:
                tensors = _tensors(self.choose(output)) + tensors
            ids = next((t for t in tensors if not t.is_floating_point() and t.dtype != torch.bool), None)
            floats = [t for t in tensors if t.is_floating_point()]
            if ids is None:
                ids, gates = self._choice(floats)
            else:
                gates = next((t for t in floats if t.shape == ids.shape), None)
            count, k = self._count(ids, floats), int(ids.shape[-1])
            if k == count > 2 and int(ids.max()) <= 1:
                raise InputError(f"{self.name}: returns a mask of experts (legal: choose=function from what the router "
                                 "returns to ids)")  # fmt: skip
            if gates is None:
                size = ids.numel() // k * count
                wide = next((t for t in floats if t.shape[-1] == count and t.numel() == size), None)
                gates = None if wide is None else wide.reshape(-1, count).gather(-1, ids.reshape(-1, k))
            shape = (-1, k)
            kept = None if gates is None else gates.detach().float().reshape(shape).cpu().numpy()
            return ids.detach().reshape(shape).cpu().numpy().astype(np.int32), kept, count

    def _choice(self, floats: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Ids and gates from logits."""
        wide = [t for t in floats if t.dim() >= 2]
        if not wide:
            raise InputError(f"{self.name}: returns neither ids nor logits (legal: logits (..., experts), or ids)")
        logits = wide[0]
        route = getattr(self.block, "route_tokens_to_experts", None)
        if route is not None:
            given = _tensors(route(logits.reshape(-1, logits.shape[-1])))
            ids = next(t for t in given if not t.is_floating_point())
            return ids, next((t for t in given if t.shape == ids.shape and t.is_floating_point()), None)
        hidden = [key for key in ("e_score_correction_bias", "expert_bias") if self._said((key,)) is not None]
        groups = self._said(("n_group",))
        if hidden or (isinstance(groups, int) and groups > 1):
            raise InputError(
                f"{self.name}: its block chooses with {hidden[0] if hidden else 'groups'}, not by logits alone (legal: "
                "choose=function from what the router returns to ids)"
            )
        k = self.top_k if self.top_k is not None else self._said(_TOP)
        if not isinstance(k, int) or not 1 <= k <= logits.shape[-1]:
            raise InputError(f"{self.name}: top_k: {k} (legal: 1 to {logits.shape[-1]}, the router's outputs)")
        largest = logits.float().topk(k, dim=-1)
        return largest.indices, largest.values.softmax(dim=-1)

    def _count(self, ids: Tensor, floats: list[Tensor]) -> int:
        """Experts of the layer."""
        k = ids.shape[-1]
        rows = ids.numel() // max(1, k)
        wide = [int(t.shape[-1]) for t in floats if t.dim() >= 2 and t.shape[-1] > k and t.shape[:-1].numel() == rows]
        said = self._said(_COUNT)
        weight = getattr(self.holders[0], "weight", None)
        for count in (*wide, said, None if weight is None or weight.dim() != 2 else int(weight.shape[0])):
            if isinstance(count, int) and count >= k:
                return count
        raise InputError(f"{self.name}: how many experts there are cannot be told (legal: a router that returns logits "
                         f"beside ids, or has one of {', '.join(_COUNT)})")  # fmt: skip

    def _said(self, keys: tuple[str, ...]) -> Any:
        """First attribute of router, block or configuration."""
        for holder in self.holders:
            for key in keys:
                value = getattr(holder, key, None)
                if value is not None and not callable(value):
                    return value
        return None


def _tensors(output: Any) -> list[torch.Tensor]:
    """Tensors of an output, maybe a tuple."""
    import torch

    parts = output if isinstance(output, tuple | list) else (output,)
    return [part for part in parts if isinstance(part, torch.Tensor)]
