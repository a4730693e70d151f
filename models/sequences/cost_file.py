"""Costs of sequences from a file: constants someone published or measured, instead of the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...hardware.errors import InputError, nearest
from ...solvers.sequences import SequenceCosts

PRESETS = Path(__file__).parent.parent / "presets" / "sequence_costs"


@dataclass(frozen=True)
class PublishedCosts:
    """Costs of groups that exchange heads for tokens, on a named number of ranks.

    Parameters
    ----------
    name : str
    source : str
    ranks, devices_per_node : int
    sequence : SequenceCosts
    """

    name: str
    source: str
    ranks: int
    devices_per_node: int
    sequence: SequenceCosts


def sequence_cost_names() -> list[str]:
    """Names of the shipped files, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_sequence_costs(what: str | Path | Mapping[str, Any]) -> PublishedCosts:
    """Costs by shipped name, by path, or as a mapping of the same keys.

    Keys: `quadratic`, `linear`, `fixed` (times: of a squared token, a token, a micro-batch, forward and backward
    together), `exchanged` and `token` and `states` and `capacity` (sizes), `bandwidth` (a rate by degree), `ranks`,
    `devices_per_node`, `source`.

    Raises
    ------
    InputError
        One line naming file, key and what is legal.
    """
    from ...hardware.files import check, read_yaml
    from .schemas import SequenceCostsFile

    if isinstance(what, Mapping):
        name, data = "costs", dict(what)
    else:
        path = Path(what)
        if path.suffix not in (".yaml", ".yml", ".json"):
            known = sequence_cost_names()
            if str(what) not in known:
                raise InputError(
                    f"costs: unknown {str(what)!r:.60}{nearest(str(what), known)} "
                    f"(legal: {', '.join(known)}, or a YAML file)"
                )
            path = PRESETS / f"{what}.yaml"
        name, data = str(what), read_yaml(path)
    file = check(SequenceCostsFile, data, name)
    if max(file.bandwidth) > file.ranks:
        raise InputError(f"{name}: bandwidth: degree {max(file.bandwidth)} of {file.ranks} ranks (legal: up to ranks)")
    return PublishedCosts(
        name,
        file.source,
        file.ranks,
        file.devices_per_node,
        SequenceCosts(
            file.quadratic,
            file.linear,
            file.fixed,
            file.exchanged,
            {1: float("inf"), **file.bandwidth},
            file.token,
            file.states,
            file.capacity,
        ),
    )
