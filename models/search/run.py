"""Search: blocks of plans costed here or by an executor, the best of them as a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...hardware.errors import InputError
from ..groups import process_groups
from ..plan import Plan
from ..predict import simulate as simulated
from ..predict import technique_of
from ..scenario import Scenario
from .enumerate import Columns, Space, chosen, layouts, rows_of
from .evaluate import DEGREES, Block
from .inference import tensor_degrees
from .rank import Board
from .space import device_counts, space_of
from .table import frame_of, front_of, planned, records

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]

BY = ("time", "throughput", "cost")
MOST_KEPT = 100_000
# Layouts costed together: enough that what they share is costed once, few enough to bound memory.
LAYOUTS = 2048
# Blocks for each executor's sake: several per worker of a usual machine.
SPREAD = 32


def search(
    scenario: Scenario,
    devices: Any = None,
    progress: Progress | None = None,
    *,
    keep: int = 100,
    by: str = "time",
    simulate: int = 0,
    price: float | None = None,
    space: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
    out: str | Path | None = None,
    layouts_at_once: int | None = None,
) -> pd.DataFrame:
    """Plans for a number of devices that fit in memory, best first.

    In training all legal plans are tried: every division into tp, pp, cp, dp and, with experts, ep and
    etp; every micro-batch, schedule and number of chunks; sequence parallelism, ZeRO stage,
    recomputation, offloading. In other phases, tensor-parallel degrees and replicas. More devices than
    the cluster has add nodes of the same kind.

    Parameters
    ----------
    scenario : Scenario
        Its plan is replaced by each candidate, but for overlap, bucket and placement.
    devices : int, (int, int) or sequence of int, optional
        Devices to use, exactly; a pair for the lower number, twice it, and so on up to the higher; a
        list for each of its numbers. Default all of the cluster.
    progress : callable, optional
        Called with (done, of).
    keep : int
        Rows of the table at most.
    by : str
        time | throughput (tokens per second) | cost (per token; devices times time).
    simulate : int
        Of this many of the best the step is simulated too: column `simulated_time_s`.
    price : float, optional
        Of a device-hour; adds `cost_per_million_tokens`, in the same money.
    space : mapping, optional
        Keys of a plan, or micro_batch, to the only values to try.
    executor : concurrent.futures.Executor, optional
        Where blocks of plans are costed; default here.
    out : path, optional
        Also write the table to this .csv or .parquet file.
    layouts_at_once : int, optional
        Layouts (tp, pp, cp, dp) per block; changes memory and speed, never the answer.

    Returns
    -------
    pandas.DataFrame
        Keys of the plan and devices, then times [s], memory by use [B]. ``attrs``: `evaluated` counts
        all plans tried, `fits` those that fit, `rejected` the others by reason, `seconds` what it took,
        `pareto` (records) the plans that none beats in both time and memory.

    Raises
    ------
    InputError
        One line naming the argument and what is legal.
    """
    begin = time.perf_counter()
    _check(keep, by, simulate, price, out)
    counts = device_counts(devices, scenario.cluster.size)
    scenario = grown(scenario, max(counts))
    if scenario.workload.phase != "training":
        if space:
            raise InputError(f"space: belongs to training, not to phase {scenario.workload.phase} (legal: nothing)")
        found = tensor_degrees(scenario, counts, keep, by, price, progress)
    else:
        call = technique_of(scenario)
        if not call.closed_form:
            raise InputError(
                f"techniques: {call.label} has no closed form to rank training plans by "
                "(legal: a search without it, and its plans simulated with it)"
            )
        board = Board(keep, by)
        options = space_of(scenario, counts, space)
        run(scenario, options, board, executor, progress, layouts_at_once)
        found = frame_of(scenario, options.choices, board.top, price)
        found.attrs.update(
            evaluated=board.evaluated,
            fits=board.fits,
            rejected=_rejected(board),
            pareto=front_of(scenario, options.choices, board.front, price),
        )
    if simulate:
        times = [simulated(planned(scenario, row)).time_s for row in records(found.head(simulate))]
        found["simulated_time_s"] = [*times, *[float("nan")] * (len(found) - len(times))]
    found.attrs["seconds"] = time.perf_counter() - begin
    if out is not None:
        _write(found, Path(out))
    return found


def _rejected(board: Board) -> dict[str, int]:
    """How many plans were left out, by reason."""
    count = board.evaluated - board.fits
    return {"memory does not fit": count} if count else {}


def grown(scenario: Scenario, devices: int) -> Scenario:
    """The scenario on enough nodes for some devices, its batch as it is."""
    if devices <= scenario.cluster.size:
        return scenario
    nodes = -(-devices // scenario.cluster.devices_per_node)
    return scenario.replace({"workload.global_batch": scenario.workload.global_batch, "cluster.nodes": nodes})


def run(
    scenario: Scenario,
    space: Space,
    board: Board,
    executor: Executor | None = None,
    progress: Progress | None = None,
    layouts_at_once: int | None = None,
) -> None:
    """Cost every plan of a space and let a board take note.

    Parameters
    ----------
    scenario : Scenario
    space : Space
    board : Board
    executor : concurrent.futures.Executor, optional
    progress : callable, optional
    layouts_at_once : int, optional
    """
    every = layouts(space)
    count = len(every["tp"])
    size = layouts_at_once or (LAYOUTS if executor is None else max(16, min(LAYOUTS, -(-count // SPREAD))))
    blocks = list(_blocks(every, count, size))
    empty = replace(board)
    if executor is None:
        for done, block in enumerate(blocks):
            board.merge(standing(scenario, space, block, empty))
            if progress:
                progress(done + 1, len(blocks))
        return
    waiting = [executor.submit(standing, scenario, space, block, empty) for block in blocks]
    for done, future in enumerate(waiting):
        board.merge(future.result())
        if progress:
            progress(done + 1, len(blocks))


def standing(scenario: Scenario, space: Space, layout: Columns, board: Board) -> Board:
    """What a board says of some layouts alone; runs anywhere."""
    found = replace(board)
    for rows in _timed_together(scenario, space, rows_of(space, layout)):
        block = Block(scenario, space, rows)
        for number, choice in enumerate(space.choices):
            for tried, costed in block.costed(choice, scenario.cluster.device.memory_capacity):
                found.offer(tried, costed, number)
    return found


def _timed_together(scenario: Scenario, space: Space, rows: Columns) -> Iterator[Columns]:
    """Rows that a block can hold: all, or those of like collectives where a technique asks for that."""
    if not len(rows["tp"]):
        return
    if not any(call.technique.apart for call in technique_of(scenario).every):
        yield rows
        return
    traits = [np.greater(rows[axis], 1) for axis in DEGREES if axis not in ("pp", "dp")]
    for placement in sorted({choice.placement for choice in space.choices}):
        degrees: dict[str, Any] = {axis: rows[axis] for axis in DEGREES}
        plans = Plan(**degrees, placement=placement)
        experts = process_groups(scenario.cluster, plans).ep
        traits += [np.greater(experts.nodes(), 1), np.greater(experts.local(), 1)]
    _, place = np.unique(np.stack(traits, axis=-1), axis=0, return_inverse=True)
    for number in range(place.max() + 1):
        yield chosen(rows, place.ravel() == number)


def _blocks(rows: Columns, count: int, size: int) -> Iterator[Columns]:
    for begin in range(0, count, size):
        yield chosen(rows, slice(begin, begin + size))  # type: ignore[arg-type]


def _check(keep: int, by: str, simulate: int, price: float | None, out: str | Path | None) -> None:
    if by not in BY:
        raise InputError(f"by: {by!r} (legal: {', '.join(BY)})")
    for name, number, least in (("keep", keep, 1), ("simulate", simulate, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= MOST_KEPT:
            raise InputError(f"{name}: {number!r} (legal: a whole number from {least} to {MOST_KEPT})")
    if price is not None and not (isinstance(price, int | float) and 0 < price < float("inf")):
        raise InputError(f"price: {price!r} (legal: above 0, of a device-hour)")
    if out is not None and Path(out).suffix not in (".csv", ".parquet"):
        raise InputError(f"out: {out} (legal: a name that ends in .csv or .parquet)")


def _write(frame: pd.DataFrame, path: Path) -> None:
    try:
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        else:
            plain = frame.copy()
            plain.attrs = {}
            plain.to_parquet(path, index=False)
    except ImportError:
        raise InputError(f"out: {path}: no Parquet writer is installed (legal: .csv, or pip install pyarrow)") from None
    except OSError as problem:
        raise InputError(f"out: cannot write {path}: {problem}") from None
