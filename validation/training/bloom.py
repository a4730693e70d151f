"""BigScience's search for BLOOM's layout: 20 to 200 billion parameters on up to 384 A100 of Jean Zay."""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import case
from .architectures import gpt
from .case import Case
from .machines import cluster_of

SOURCE = "bloom"
VOCAB = 250_880  # the sizes printed are met with BLOOM's vocabulary from this line of the notes on
NEW_VOCAB, SMALL_VOCAB = 583, 51_200
FULL_FORMULA = 590  # from this line on TFLOP/s count attention and logits, before the layers' products alone
HEADS = 96  # where a row leaves them out: those of the rows beside it


def read(row: Mapping[str, str]) -> Case:
    """A row: Megatron-DeepSpeed, everything recomputed, ZeRO-1, nothing overlapped."""
    line = line_of(row) or 0
    vocab = VOCAB if line >= NEW_VOCAB else SMALL_VOCAB
    layers = case.whole(row, "layers", 0) or layers_from_size(row, vocab)
    dp = case.replicas(row)
    plan = case.degrees(row) | {
        "zero": int((re.search(r"ZeRO-(\d)", row.get("sharding") or "") or ["", "0"])[1]),
        "recompute": case.recompute_of(row, "full"),
        "overlap": [],
    }
    scenario = {
        "model": gpt(row, vocab=vocab, learned_positions=False, layers=layers, heads=heads_of(row)),
        "cluster": cluster_of(row),
        "workload": case.workload(row, dp, case.micro_batch(row, dp, 1), case.dtype_of(row)),
        "plan": plan,
        "software": "megatron-deepspeed",
    }
    flops = case.hardware_flops(row, layers, vocab)
    if line < FULL_FORMULA:
        hidden = case.number(row, "hidden")
        flops = 96 * case.number(row, "global_batch_seqs") * case.number(row, "seq_len") * layers * hidden**2
    memory = case.optional(row, "mem_gib_per_gpu")
    return Case(row["row_id"], SOURCE, row, scenario, case.step_time(row, flops), memory * case.GIB if memory else None)


def line_of(row: Mapping[str, str]) -> int | None:
    """Line of the notes that a row stands in."""
    found = re.search(r"line (\d+)", row.get("notes") or "")
    return int(found[1]) if found else None


def layers_from_size(row: Mapping[str, str], vocab: int) -> int:
    """Layers of a model of the printed size: 12 h^2 each beside the embedding, as many on every stage.

    The rows' TFLOP/s and seconds agree: 96 B s l h^2 gives 77.0, 81.0 and 72.0 layers for 7, 9 and 12 stages.
    """
    hidden, stages = case.number(row, "hidden"), case.whole(row, "pp", 1)
    size = case.number(row, "params_b") * 1e9 - VOCAB * hidden
    return stages * max(1, round(size / (12 * hidden**2) / stages))


def heads_of(row: Mapping[str, str]) -> int:
    """Heads where a row leaves them out; the nearest number that its hidden size and tp divide by."""
    hidden, tp = case.whole(row, "hidden"), case.whole(row, "tp", 1)
    legal = [n for n in range(tp, hidden // 64 + 1, tp) if hidden % n == 0]
    return min(legal, key=lambda n: abs(n - HEADS)) if legal else HEADS
