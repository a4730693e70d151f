"""All training tables: every row a `Case`, in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from zlib import crc32

from ..claims import MEASURED, read_measured
from . import bloom, bridge, internevo, megatron, mosaic, others, torchtitan, vtrain
from .case import Case, doubt_of, one_line

TABLES: dict[str, Callable[[Mapping[str, str]], Case]] = {
    "train_mosaic_mpt": mosaic.read,
    "train_megatron": megatron.read,
    "train_internevo": internevo.read,
    "train_vtrain": vtrain.read,
    "train_torchtitan": torchtitan.read,
    "train_megatron_bridge": bridge.read,
    "train_bloom_prequel": bloom.read,
    "train_moe_zoo": bridge.read_zoo,
    "train_deepspeed": others.read_deepspeed,
    "train_frontier_runs_recalled": others.read_recalled,
}


def cases() -> Iterator[Case]:
    """Every row of the tables that are there.

    Raises
    ------
    LookupError
        Where none of them is.
    """
    missing = 0
    for name in TABLES:
        table = read_measured(name)
        if table is None:
            missing += 1
            continue
        for row in table:
            yield read(name, row)
    if missing == len(TABLES):
        raise LookupError(f"train_*.csv: set {MEASURED} to the folder that holds them")


def read(table: str, row: Mapping[str, str]) -> Case:
    """One row of a table; a row that cannot be read gets its reason."""
    try:
        found = TABLES[table](row)
        found = replace(found, doubt=found.doubt or doubt_of(row))
    except Exception as problem:  # whatever a cell holds, the other rows are read
        return Case(row.get("row_id") or "?", table.removeprefix("train_"), row, reason=one_line(problem))
    if found.step_time is None and found.memory is None:
        reason = "the table gives neither the time of a step nor what to get it from"
        return Case(found.row_id, found.source, row, reason=reason)
    return found


def is_calibration(case: Case) -> bool:
    """Whether a fit may look at a row: every third, by the checksum of its name, of those without doubt."""
    usable = case.scenario is not None and case.step_time is not None and not case.doubt
    return usable and crc32(case.row_id.encode()) % 3 == 0
