"""Scenario: model + cluster + workload + plan + techniques, checked at the door."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hardware import Cluster, load_cluster
from ..hardware.errors import InputError
from ..hardware.units import parse_size
from .architecture import Transformer
from .fitted import fitted
from .library import load_model
from .pipeline.orders import CHUNKED, JOINT
from .pipeline.orders import check as check_schedule
from .plan import Plan, Workload
from .routing.choice import routing_of
from .software import Software, load_software
from .techniques import TechniqueCall, parse_technique
from .training.stragglers import Stragglers

_FILES = (".json", ".npz", ".parquet")


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
        """Scenario from a YAML (or JSON) file; files it names for model and routing are looked for beside it first.

        Raises
        ------
        InputError
            One line naming file, key and legal range.
        """
        from ..hardware.files import read_yaml

        path = Path(path)
        data = read_yaml(path)
        for key in ("model", "workload.routing.trace", "workload.routing.placement"):
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
        plan = _plan(file.plan, model, cluster, file.workload.phase, techniques, where)
        workload = _workload(file.workload, plan, model, cluster, where)
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
            _stragglers(file.stragglers, plan, where),
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


def _plan(
    file: Any, model: Transformer, cluster: Cluster, phase: str, techniques: Sequence[TechniqueCall], where: str
) -> Plan:
    """Plan of a checked file section, as the techniques change it; every rule names the key and what is legal."""
    where = f"{where}: plan"
    if phase != "training":
        for key in ("pp", "vp") if phase == "prefill" else ("pp", "cp", "vp"):
            if getattr(file, key) != 1:
                known = "training and prefill" if key == "cp" else "training"
                raise InputError(f"{where}.{key}: {getattr(file, key)} is modelled in {known} only (legal: 1)")
    used = file.tp * file.pp * file.cp * file.dp
    if used > cluster.size:
        raise InputError(
            f"{where}: tp {file.tp} x pp {file.pp} x cp {file.cp} x dp {file.dp} needs {used} devices, "
            f"{cluster.name} has {cluster.size} (legal: a product <= {cluster.size})"
        )
    if file.pp * file.vp > model.layers:
        raise InputError(
            f"{where}.{'vp' if file.vp > 1 else 'pp'}: pp {file.pp} x vp {file.vp} chunks for the {model.layers} "
            f"layers of {model.name} (legal: pp * vp <= {model.layers})"
        )
    etp = file.etp if file.etp is not None else (file.tp if file.ep == 1 else 1)
    if etp not in (1, file.tp):
        raise InputError(f"{where}.etp: {etp} (legal: 1 or tp, {file.tp})")
    if file.ep > 1:
        if not model.experts:
            raise InputError(f"{where}.ep: {file.ep}, and {model.name} has no experts (legal: 1)")
        if model.experts % file.ep:
            raise InputError(
                f"{where}.ep: {file.ep} does not divide the {model.experts} experts of {model.name} "
                f"(legal: {_divisors(model.experts)})"
            )
        room = file.dp * file.cp * file.tp // etp
        if room % file.ep:
            raise InputError(
                f"{where}.ep: {file.ep} does not divide dp * cp * tp / etp = {room} (legal: {_divisors(room)})"
            )
    group = file.shard_group
    if group is not None and (file.dp * file.cp) % group:
        raise InputError(
            f"{where}.shard_group: {group} does not divide dp * cp = {file.dp * file.cp} "
            f"(legal: {_divisors(file.dp * file.cp)})"
        )
    if sorted(file.placement.split("-")) != ["cp", "dp", "pp", "tp"]:
        raise InputError(
            f"{where}.placement: {file.placement!r} (legal: tp, cp, dp and pp in any order, as in tp-cp-dp-pp)"
        )
    schedule = "interleaved" if file.vp > 1 and file.schedule == "1f1b" else file.schedule
    if schedule in JOINT and file.zero >= 2:
        # Two passes run as one; what is divided would be gathered and scattered between.
        raise InputError(f"{where}.zero: {file.zero} with schedule {schedule} (legal: 0 or 1)")
    if file.vp > 1 and schedule not in CHUNKED:
        raise InputError(f"{where}.vp: {file.vp} with schedule {schedule} (legal: 1, or schedule interleaved)")
    if file.recompute_layers is not None and file.recompute != "full":
        raise InputError(
            f"{where}.recompute_layers: {file.recompute_layers} with recompute {file.recompute} "
            "(legal: none given, or recompute full)"
        )
    if group is not None and not file.zero:
        raise InputError(f"{where}.shard_group: {group} with zero 0 (legal: none given, or zero 1 to 3)")
    plan = Plan(
        file.tp,
        file.pp,
        file.dp,
        file.cp,
        file.ep,
        file.vp,
        etp,
        schedule,
        file.sequence_parallel,
        file.zero,
        group,
        file.recompute,
        file.recompute_layers,
        file.offload,
        tuple(dict.fromkeys(file.overlap)),
        parse_size(file.bucket, f"{where}.bucket"),
        file.placement,
    )
    for call in techniques:
        if call.technique.replan is not None:
            plan = call.technique.replan(plan)
    if model.heads % plan.tp:
        product = "" if plan.tp == file.tp else f" = tp {file.tp} x cp {file.cp}"
        raise InputError(
            f"{where}.tp: {plan.tp}{product} does not divide the {model.heads} attention heads of {model.name} "
            f"(legal: {_divisors(model.heads)})"
        )
    return plan


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


def _stragglers(file: Any, plan: Plan, where: str) -> Stragglers:
    for rank in file.factors:
        if rank >= plan.devices:
            raise InputError(f"{where}: stragglers.factors: rank {rank} (legal: 0 to {plan.devices - 1})")
    return Stragglers(file.spread, file.distribution, file.factors)


def _divisors(count: int) -> str:
    return ", ".join(str(d) for d in range(1, count + 1) if count % d == 0)


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
    if length < plan.cp:
        raise InputError(f"{where}: plan.cp: {plan.cp} ranks for {length} tokens (legal: up to one a token, {length})")
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
    host = (file.data_loading, file.host_step, file.host_token)
    routing = routing_of(file.routing, model, plan, cluster, f"{where}: workload.routing")
    return Workload(file.phase, length, file.new_tokens or 0, batch, micro, file.dtype, *host, routing)
