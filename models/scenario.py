"""Scenario: model + cluster + workload + plan + techniques, checked at the door."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hardware import Cluster, load_cluster
from ..hardware.errors import InputError
from .architecture import Transformer
from .fitted import fitted
from .library import load_model
from .pipeline.orders import check as check_schedule
from .plan import Plan, Workload
from .sections import plan_of, stragglers_of, workload_of
from .software import Software, load_software
from .techniques import TechniqueCall, parse_technique
from .training.stragglers import Stragglers

_FILES = (".json", ".npz", ".parquet", ".yaml", ".yml", ".txt", ".xml")
# Keys whose value may be a file, looked for beside the scenario's first.
NAMING_FILES = (
    "model",
    "software",
    "workload.routing.trace",
    "workload.routing.placement",
    "cluster",
    *(f"cluster.{key}" for key in ("preset", "device", "link", "nic", "fabric.file")),
    *(f"cluster.{part}.{key}" for part in ("device", "link", "nic") for key in ("preset", "profile")),
)


@dataclass(frozen=True)
class Scenario:
    """What a user asks about. Build it with `load` or `from_dict`; both check every key.

    Attributes
    ----------
    model : Transformer
    cluster : Cluster
    workload : Workload
    plan : Plan
    techniques : tuple of TechniqueCall
        At most one of each family; empty means the baseline.
    software : Software
    stragglers : Stragglers
        Ranks slower than others, in training.
    fold : bool
        Simulate one rank for all that do the same thing.
    seed : int
    data : dict
        The mapping it was built from, for sweeps.
    where : str
        What errors call it: its file.
    """

    model: Transformer
    cluster: Cluster
    workload: Workload
    plan: Plan
    techniques: tuple[TechniqueCall, ...]
    software: Software
    stragglers: Stragglers = field(default_factory=Stragglers)
    fold: bool = True
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    where: str = field(default="scenario", repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """Scenario from a YAML (or JSON) file; files that it names are looked for beside it first.

        Raises
        ------
        InputError
            One line naming file, key and legal range.
        """
        from ..hardware.files import read_yaml

        path = Path(path)
        data = read_yaml(path)
        for key in NAMING_FILES:
            data = _beside(data, key.split("."), path.parent)
        return cls.from_dict(data, where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """Scenario from a mapping of the same form as the file."""
        from ..hardware.files import check
        from .schemas import ScenarioFile

        if not isinstance(data, Mapping):
            raise InputError(f"{where}: expected a mapping of keys, got {type(data).__name__}")
        file = check(ScenarioFile, dict(data), where)
        techniques = tuple(parse_technique(t if isinstance(t, str) else t.model_dump(), where) for t in file.techniques)
        model = _remodelled(load_model(file.model, f"{where}: model"), techniques, where)
        cluster = load_cluster(file.cluster, f"{where}: cluster")
        try:
            fitted(cluster.device)
        except InputError as problem:
            raise InputError(f"{where}: cluster: device: profile: {problem}") from None
        plan = plan_of(file.plan, model, cluster, file.workload.phase, techniques, where)
        workload = workload_of(file.workload, plan, model, cluster, where)
        for call in techniques:
            reason = call.technique.unfit(model, workload, plan) if call.technique.unfit else ""
            if reason:
                raise InputError(f"{where}: techniques: {call.technique.name} {reason}")
        if workload.phase == "training":
            batches = workload.global_batch // (plan.dp * workload.micro_batch)
            try:
                check_schedule(plan.schedule, plan.pp, plan.vp, batches)
            except InputError as problem:
                raise InputError(f"{where}: {problem}") from None
        default = "megatron-core" if workload.phase == "training" else "torch-compile"
        return cls(
            model,
            cluster,
            workload,
            plan,
            techniques,
            load_software(default if file.software is None else file.software, f"{where}: software"),
            stragglers_of(file.stragglers, plan, where),
            file.fold,
            file.seed,
            dict(data),
            where,
        )

    def replace(self, changes: Mapping[str, Any]) -> Scenario:
        """Scenario with dotted keys changed, as in ``{"plan.tp": 4}``.

        Raises
        ------
        InputError
            When a key does not exist in a scenario or a value is not legal.
        """
        return Scenario.from_dict(changed(self.data, changes), self.where)

    def with_techniques(self, techniques: Sequence[str | Mapping[str, Any]]) -> Scenario:
        """Scenario with its techniques replaced."""
        return self.replace({"techniques": list(techniques)})


def changed(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of nested mappings with dotted keys set."""
    result = dict(data)
    for key, value in changes.items():
        node, parts = result, key.split(".")
        for depth, part in enumerate(parts[:-1]):
            below = node.get(part, {})
            if isinstance(below, str) and part in ("model", "cluster", "software"):
                below = {"preset": below}
            if not isinstance(below, Mapping):
                raise InputError(f"{key}: {'.'.join(parts[: depth + 1])} is a value, not a group of keys")
            node[part] = dict(below)
            node = node[part]
        node[parts[-1]] = value
    return result


def _beside(data: dict[str, Any], keys: Sequence[str], folder: Path) -> dict[str, Any]:
    """The mapping with a file it names by the name from here, where that file is in the folder."""
    key, *rest = keys
    value = data.get(key)
    if rest:
        return {**data, key: _beside(value, rest, folder)} if isinstance(value, dict) else data
    if isinstance(value, str) and ("/" in value or Path(value).suffix in _FILES) and os.path.exists(folder / value):
        return {**data, key: str(folder / value)}
    return data


def _remodelled(model: Transformer, techniques: Sequence[TechniqueCall], where: str) -> Transformer:
    """The model as techniques of its own change it."""
    for call in techniques:
        if call.technique.family == "moe" and not model.experts:
            raise InputError(
                f"{where}: techniques: {call.technique.name}: {model.name} has no experts (legal: a mixture of experts)"
            )
        if call.technique.slot == "model":
            model = call.technique.build(model, **call.options)
    return model
