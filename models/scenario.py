"""Scenario: model + cluster + workload + plan + techniques, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hardware import Cluster, load_cluster
from ..hardware.errors import InputError
from .architecture import Transformer
from .library import load_model
from .plan import Plan, Workload
from .software import Software, load_software
from .techniques import TechniqueCall, parse_technique

NOT_YET = ("pp", "cp", "ep", "vp")


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
    fold: bool = True
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    where: str = field(default="scenario", repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """Scenario from a YAML (or JSON) file; model paths in it are relative to the file.

        Raises
        ------
        InputError
            One line naming file, key and legal range.
        """
        from ..hardware.files import read_yaml

        path = Path(path)
        data = read_yaml(path)
        model = data.get("model")
        if isinstance(model, str) and ("/" in model or model.endswith(".json")):
            beside = path.parent / model
            if beside.exists():
                data = {**data, "model": str(beside)}
        return cls.from_dict(data, where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """Scenario from a mapping of the same form as the file."""
        from ..hardware.files import check
        from .schemas import ScenarioFile

        if not isinstance(data, Mapping):
            raise InputError(f"{where}: expected a mapping of keys, got {type(data).__name__}")
        file = check(ScenarioFile, dict(data), where)
        model = load_model(file.model, f"{where}: model")
        cluster = load_cluster(file.cluster, f"{where}: cluster")
        plan = _plan(file.plan, model, cluster, where)
        workload = _workload(file.workload, plan, model, cluster, where)
        default = "megatron" if workload.phase == "training" else "torch-compile"
        return cls(
            model,
            cluster,
            workload,
            plan,
            tuple(parse_technique(t if isinstance(t, str) else t.model_dump(), where) for t in file.techniques),
            load_software(default if file.software is None else file.software, f"{where}: software"),
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


def _plan(file: Any, model: Transformer, cluster: Cluster, where: str) -> Plan:
    for key in NOT_YET:
        if getattr(file, key) != 1:
            raise InputError(f"{where}: plan.{key}: {getattr(file, key)} is not modelled yet (legal: 1)")
    if model.heads % file.tp:
        legal = [str(d) for d in range(1, model.heads + 1) if model.heads % d == 0]
        raise InputError(
            f"{where}: plan.tp: {file.tp} does not divide the {model.heads} attention heads of {model.name} "
            f"(legal: {', '.join(legal)})"
        )
    if file.tp * file.dp > cluster.size:
        raise InputError(
            f"{where}: plan: tp {file.tp} x dp {file.dp} needs {file.tp * file.dp} devices, "
            f"{cluster.name} has {cluster.size} (legal: tp * dp <= {cluster.size})"
        )
    return Plan(file.tp, file.dp, file.sequence_parallel, file.zero, file.recompute)


def _workload(file: Any, plan: Plan, model: Transformer, cluster: Cluster, where: str) -> Workload:
    if file.phase == "generate":
        length = file.prompt or file.sequence_length
        if length is None or file.new_tokens is None:
            missing = "prompt" if length is None else "new_tokens"
            raise InputError(f"{where}: workload.{missing}: needed by phase generate (legal: 1 or more tokens)")
    else:
        length = file.sequence_length or file.prompt
        if length is None:
            raise InputError(
                f"{where}: workload.sequence_length: needed by phase {file.phase} (legal: 1 or more tokens)"
            )
        if file.new_tokens is not None:
            raise InputError(f"{where}: workload.new_tokens: belongs to phase generate, not {file.phase}")
    batch = file.global_batch or plan.dp * (file.micro_batch or 1)
    if batch % plan.dp:
        raise InputError(f"{where}: workload.global_batch: {batch} is not a multiple of plan.dp = {plan.dp}")
    micro = file.micro_batch or (1 if file.phase == "training" else batch // plan.dp)
    if (batch // plan.dp) % micro:
        raise InputError(
            f"{where}: workload.micro_batch: {micro} does not divide the {batch // plan.dp} sequences of a replica"
        )
    if file.dtype not in cluster.device.peak_flops:
        legal = ", ".join(sorted(cluster.device.peak_flops))
        raise InputError(f"{where}: workload.dtype: {cluster.device.name} has no {file.dtype} rate (legal: {legal})")
    return Workload(file.phase, length, file.new_tokens or 0, batch, micro, file.dtype)
