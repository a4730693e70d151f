"""DeepSpeed-Ulysses' published throughput against Megatron-LM's (arXiv 2309.14509), point by point.

Every point is the best of each system over its degree and micro-batch, so both are searched here: Ulysses with
ZeRO-3 over all devices, Megatron-LM with tensor and sequence parallelism and whole optimizer states (its distributed
optimizer is younger), each with the recomputation that fits and is fastest. Ratios are compared: how the paper counts
FLOPs is not known. Not published and taken here: the shapes of the models (those of FlexSP's GPT-7B and GPT-30B),
and the network between nodes (a DGX A100's eight 200 Gbit/s adapters).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from ..models.predict import estimate
from ..models.scenario import Scenario
from .claims import Row, read_claims

FAMILY, TECHNIQUE = "sequence_parallel", "ulysses"
SHAPES = {
    "GPT-1.2B": {"n_layer": 24, "n_embd": 2048, "n_head": 16},  # shape recalled; P up to 16 by its heads
    "GPT-7B": {"n_layer": 32, "n_embd": 4096, "n_head": 64},
    "GPT-30B": {"n_layer": 60, "n_embd": 6656, "n_head": 64},
}
KIBI = {"K": 1024, "M": 1024**2}
WITHIN = 0.15
SPARSE = "the block-sparse kernel's pattern and speed are not published"
ABSOLUTE = "how the paper counts FLOPs is not published, so throughput alone is not compared"
OTHER = "ring self-attention that keeps whole score matrices is not modelled"


@cache
def best(system: str, model: str, devices: int, length: int) -> float | None:
    """Tokens per second of the fastest plan that fits; None when none does.

    Parameters
    ----------
    system : str
        ulysses | megatron_sp.
    model : str
    devices : int
    length : int
        Tokens of a sequence.
    """
    heads = SHAPES[model]["n_head"]
    degrees = [2**k for k in range(11) if 2**k <= min(devices, heads)]
    found: float | None = None
    for degree, micro, recompute in product(degrees, (1, 2, 4, 8), ("none", "selective", "full")):
        if micro * length > 2**20:
            continue
        data: dict[str, Any] = {
            "model": {"model_type": "gpt2", "vocab_size": 50257, "n_positions": length, **SHAPES[model]},
            "cluster": {"preset": "dgx-a100", "device": "a100-40-sxm", "nodes": -(-devices // 8)},
            "workload": {
                "phase": "training",
                "sequence_length": length,
                "micro_batch": micro,
                "global_batch": micro * (devices // degree),
            },
            "plan": {"dp": devices // degree, "recompute": recompute},
        }
        if system == "ulysses":
            data["plan"] |= {"cp": degree, "zero": 3}
            data["techniques"] = ["ulysses"]
        else:
            data["plan"] |= {"tp": degree, "sequence_parallel": degree > 1}
        result = estimate(Scenario.from_dict(data))
        if result.fits and (found is None or result.tokens_per_second > found):
            found = result.tokens_per_second
    return found


def rows() -> Iterator[Row]:
    """Ratios where both systems are published at a length; out of memory where it is; the rest with its reason."""
    claims = {claim["claim_id"]: claim for claim in read_claims(TECHNIQUE)}
    for name, claim in claims.items():
        reason, reported, predicted, metric, trivial = ABSOLUTE, 0.0, None, claim["metric"], None
        case = re.fullmatch(r"ul_dense(7|30)b_(\d+)k_megatron", name)
        if case:
            model, devices = f"GPT-{case[1]}B", int(claim["hardware"].split("x")[0])
            length = int(case[2]) * 1024
            other = claims.get(name.replace("megatron", "ulysses"))
            mine, rival = (best(system, model, devices, length) for system in ("ulysses", "megatron_sp"))
            if claim["unit"] == "status":
                reported, predicted, metric = 1.0, float(rival is None), "out of memory"
                reason = "" if rival is None else "predicted to fit"
            elif other is not None and mine and rival:
                metric = "speed-up over Megatron-LM"
                reported = float(other["reported"].split("-")[0]) / float(claim["reported"])
                predicted, trivial = mine / rival, 1.0
                reason = "" if abs(predicted / reported - 1) <= WITHIN else "beyond 15 %"
        elif "sparse" in name:
            reason = SPARSE
        elif "colai" in name:
            reason = OTHER
        yield Row(
            FAMILY,
            TECHNIQUE,
            name,
            f"{claim['model']}, {claim['hardware']}, {claim['setting']}",
            metric,
            reported or _number(claim["reported"]),
            predicted,
            claim["source"],
            trivial,
            reason=reason,
        )


def _number(text: str) -> float:
    found = re.match(r"[\d.]+", text)
    return float(found[0]) if found else 0.0
