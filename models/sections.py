"""Sections of a scenario file, held against each other: every rule names the key and what is legal.

Ranges of single keys are in `schemas`; here is what depends on the model, the cluster or another section.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..hardware import Cluster
from ..hardware.errors import InputError
from ..hardware.units import parse_size
from .architecture import Transformer
from .pipeline.orders import JOINT
from .plan import Plan, Workload
from .routing.choice import routing_of
from .techniques import TechniqueCall
from .training.stragglers import Stragglers

if TYPE_CHECKING:
    from .schemas import PlanFile, StragglersFile, WorkloadFile


def plan_of(
    file: PlanFile, model: Transformer, cluster: Cluster, phase: str, techniques: Sequence[TechniqueCall], where: str
) -> Plan:
    """Plan of a checked section, as the techniques change it.

    Parameters
    ----------
    file : PlanFile
    model : Transformer
    cluster : Cluster
    phase : str
        Of the workload.
    techniques : sequence of TechniqueCall
    where : str
        What errors call the scenario.

    Raises
    ------
    InputError
        The key that does not go with the rest, and what does.
    """
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


def workload_of(file: WorkloadFile, plan: Plan, model: Transformer, cluster: Cluster, where: str) -> Workload:
    """Workload of a checked section; parameters and errors as of `plan_of`."""
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


def stragglers_of(file: StragglersFile, plan: Plan, where: str) -> Stragglers:
    """Stragglers of a checked section, every one a rank of the plan."""
    for rank in file.factors:
        if rank >= plan.devices:
            raise InputError(f"{where}: stragglers.factors: rank {rank} (legal: 0 to {plan.devices - 1})")
    return Stragglers(file.spread, file.distribution, file.factors)


def _divisors(count: int) -> str:
    return ", ".join(str(d) for d in range(1, count + 1) if count % d == 0)
