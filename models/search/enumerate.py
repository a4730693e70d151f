"""Every legal plan for some numbers of devices: arrays of degrees, beside the choices that are no numbers.

A plan is a row of degrees, a number of chunks per stage and a `Choice`. Plans that differ in nothing
that runs are listed once: sequence parallelism where tensors are divided, ZeRO where there are
replicas, a schedule where there is a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..pipeline.orders import JOINT, legal

Columns = dict[str, np.ndarray]


def always(heads: Any, cp: Any) -> bool:
    """Sequences are divided without regard to heads."""
    return True


@dataclass(frozen=True, slots=True)
class Choice:
    """What a plan has besides degrees; names and meanings are those of `Plan`."""

    schedule: str
    sequence_parallel: bool
    zero: int
    recompute: str
    offload: str
    recompute_layers: int | None
    shard_group: int | None
    overlap: tuple[str, ...]
    bucket: float
    placement: str


@dataclass(frozen=True, slots=True)
class Space:
    """What plans are made of.

    Parameters
    ----------
    degrees : Mapping
        Values of tp, pp, cp, dp, ep, etp, vp and micro_batch.
    choices : tuple of Choice
    devices : tuple of int
        Numbers of devices, each used up exactly.
    heads, layers, experts, global_batch : int
        Of the scenario; 0 experts where there are none.
    shares : callable
        ``shares(heads, cp)``: where that many ranks can divide sequences of that many heads, as the scenario's
        technique does it.
    """

    degrees: Mapping[str, tuple[int, ...]]
    choices: tuple[Choice, ...]
    devices: tuple[int, ...]
    heads: int
    layers: int
    experts: int
    global_batch: int
    shares: Callable[[Any, Any], Any] = always

    @property
    def unpiped(self) -> str | None:
        """The schedule that stands for all where there is one stage."""
        asked = {choice.schedule for choice in self.choices}
        return next((name for name in ("1f1b", "gpipe", "zero-bubble") if name in asked), None)


def layouts(space: Space) -> Columns:
    """Every (tp, cp, pp, dp) that uses up one of the numbers of devices; columns, with `devices`."""
    rows: Columns = {"devices": np.ones(1, dtype=np.int64)}
    for axis in ("tp", "cp", "pp", "dp"):
        rows = crossed(rows, axis, space.degrees[axis])
        rows["devices"] = rows["devices"] * rows[axis]
        rows = chosen(rows, rows["devices"] <= max(space.devices))
    whole = np.isin(rows["devices"], space.devices)
    whole &= (space.global_batch % rows["dp"] == 0) & (space.heads % rows["tp"] == 0) & (rows["pp"] <= space.layers)
    return chosen(rows, whole & space.shares(space.heads // rows["tp"], rows["cp"]))


def rows_of(space: Space, layout: Columns) -> Columns:
    """The same with every micro-batch and every division of the experts.

    Parameters
    ----------
    space : Space
    layout : dict
        Some rows of `layouts`.
    """
    rows = crossed(layout, "micro_batch", space.degrees["micro_batch"])
    rows = chosen(rows, (space.global_batch // rows["dp"]) % rows["micro_batch"] == 0)
    if not space.experts:
        return {**rows, "ep": np.ones_like(rows["tp"]), "etp": rows["tp"]}
    as_others = {**rows, "etp": rows["tp"]}
    whole = chosen({**rows, "etp": np.ones_like(rows["tp"])}, rows["tp"] > 1)
    rows = {name: np.concatenate([as_others[name], whole[name]]) for name in as_others}
    rows = chosen(rows, np.isin(rows["etp"], space.degrees["etp"]))
    rows = crossed(rows, "ep", space.degrees["ep"])
    room = rows["dp"] * rows["cp"] * rows["tp"] // rows["etp"]
    return chosen(rows, (room % rows["ep"] == 0) & (space.experts % rows["ep"] == 0))


def plans_of(space: Space, rows: Columns, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Legal plans of one choice.

    Parameters
    ----------
    space : Space
    rows : dict
        Of `rows_of`.
    choice : Choice

    Returns
    -------
    tuple of numpy.ndarray of int, shape (plans,)
        Row of each plan, and its number of chunks per stage.
    """
    pp, replicas = rows["pp"], rows["dp"] * rows["cp"]
    batches = space.global_batch // (rows["dp"] * rows["micro_batch"])
    keep = np.greater(pp, 1) | (choice.schedule == space.unpiped)
    if choice.sequence_parallel:
        keep &= rows["tp"] > 1
    if choice.zero:
        keep &= replicas > 1
    if choice.shard_group is not None:
        keep &= (replicas % choice.shard_group == 0) & (choice.zero > 0)
    turns = choice.schedule == "interleaved"
    chunks = [vp for vp in space.degrees["vp"] if (vp > 1) == turns]
    places = [
        np.nonzero(keep & (pp * vp <= space.layers) & legal(choice.schedule, pp, vp, batches))[0] for vp in chunks
    ]
    if not places:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(places), np.repeat(chunks, [len(found) for found in places])


def choices_of(values: Mapping[str, tuple[object, ...]]) -> tuple[Choice, ...]:
    """Every combination that is legal.

    A number of layers to recompute belongs to recomputing whole layers; what is divided per micro-batch
    does not go with passes that run as one.
    """
    every = (Choice(**dict(zip(values, some, strict=True))) for some in product(*values.values()))  # type: ignore[arg-type]
    return tuple(
        choice
        for choice in every
        if (choice.recompute_layers is None or choice.recompute == "full")
        and not (choice.schedule in JOINT and choice.zero >= 2)
    )


def crossed(rows: Columns, name: str, values: tuple[int, ...]) -> Columns:
    """Every row with every value of one more column."""
    count = len(next(iter(rows.values())))
    found = {key: np.repeat(column, len(values)) for key, column in rows.items()}
    found[name] = np.tile(np.asarray(values, dtype=np.int64), count)
    return found


def chosen(rows: Columns, which: np.ndarray) -> Columns:
    """Some rows, by mask or by place."""
    return {key: column[which] for key, column in rows.items()}
