"""Measured attention over divided sequences: how rows are read, what a calibration does, and how far off it is."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from commlens.validation import longctx
from commlens.validation.claims import MEASURED
from commlens.validation.longctx import Fitted, case, predicted

ROW = {
    "row_id": "made-up",
    "impl": "yunchang USP",
    "gpu": "A100-SXM4-80GB",
    "fabric": "NVLink/NVSwitch",
    "n_gpus": "8",
    "batch": "2",
    "seq_len_global": "131072",
    "heads": "8",
    "kv_heads": "8",
    "head_dim": "32",
    "causal": "yes",
    "pass": "fwd",
    "ulysses_degree": "8",
    "ring_degree": "1",
    "ring_variant": "basic",
    "packing": "qkvpacked",
    "time_ms": "10",
    "source": "none",
}
NUMBERS = Fitted(flash=0.8, host=1e-6, ring=0.8, exchange=0.6, peers=0.0)


def seconds(numbers=NUMBERS, **changes):
    return predicted(case({**ROW, **changes}), numbers)


def test_a_grid_without_a_ring_is_the_same_in_both_layouts():
    assert seconds(ring_variant="basic") == seconds(ring_variant="zigzag")


def test_long_attention_takes_what_products_and_exponentials_do():
    item = case({**ROW, "seq_len_global": str(2**21)})
    device = longctx.cluster(item.fabric, item.device, 8, 8, NUMBERS).device
    scores = 2 * 8 * 2.0**42 / 2 / 8
    products = scores * 4 * 32 / (0.8 * device.flops("bf16"))
    exponentials = scores / (longctx.EXPONENTIALS * device.compute_units * device.clock)
    assert predicted(item, NUMBERS) == pytest.approx(products + exponentials, rel=0.02)


def test_runs_of_tokens_leave_the_last_rank_nearly_twice_the_work():
    ring = {"ulysses_degree": "1", "ring_degree": "8", "seq_len_global": str(2**20)}
    assert seconds(**ring) / seconds(**ring, ring_variant="zigzag") == pytest.approx(15 / 8, rel=0.02)


def test_short_passes_take_what_the_host_launches():
    slow = replace(NUMBERS, host=1e-3)
    packed, apart = (seconds(slow, seq_len_global="512", packing=packing) for packing in ("qkvpacked", "unpacked"))
    # Two exchanges, packed and unpacked, and attention; without packing, four.
    assert packed == pytest.approx(7e-3)
    assert apart == pytest.approx(13e-3)
    assert seconds(replace(slow, host=1e-9), seq_len_global="512") < 1e-3


def test_a_backward_pass_comes_on_top():
    assert seconds(**{"pass": "fwd+bwd"}) > 3 * seconds()


@pytest.mark.parametrize("name", ["ring", "exchange", "flash"])
def test_slower_messages_or_products_are_never_faster(name):
    for degree in (1, 2, 4, 8):
        shape = {"ulysses_degree": str(degree), "ring_degree": str(8 // degree), "ring_variant": "zigzag"}
        slower = replace(NUMBERS, **{name: getattr(NUMBERS, name) / 2})
        assert seconds(slower, **shape) >= seconds(**shape)


def test_crowds_slow_exchanges_among_many():
    crowded = replace(NUMBERS, peers=1.0)
    grids = [{"ulysses_degree": str(u), "ring_degree": str(8 // u), "ring_variant": "zigzag"} for u in (1, 2, 4, 8)]
    lost = [seconds(crowded, **grid) - seconds(**grid) for grid in grids]
    assert lost[:2] == [0.0, 0.0]
    assert 0 < lost[2] < lost[3]


def test_one_device_does_all_and_the_others_nothing():
    ring = {**ROW, "impl": "ring-flash-attention batch", "ring_degree": "8", "ulysses_degree": "1"}
    ideal = predicted(case({**ring, "ring_variant": "ideal (1-GPU flash-attn / 8)"}), NUMBERS)
    assert ideal < predicted(case({**ring, "ring_variant": "zigzag ring"}), NUMBERS)
    gathered = predicted(case({**ring, "ring_variant": "llama3 all-gather KV"}), NUMBERS)
    assert ideal < gathered < predicted(case({**ring, "ring_variant": "ring"}), NUMBERS)


def test_a_width_that_is_not_the_table_s_is_said():
    item = case({**ROW, "heads": "32", "kv_heads": "32"})
    assert item.core.head_dim == longctx.WIDER
    assert "table: 32" in item.note
    assert not case(ROW).note


def test_what_is_not_known_has_its_reason():
    assert "no preset" in case({**ROW, "gpu": "MI300X"}).reason
    assert case({**ROW, "impl": "ring-flash-attention varlen"}).reason == longctx.VARLEN


def test_without_the_table_nothing_is_claimed(monkeypatch):
    monkeypatch.delenv(MEASURED, raising=False)
    with pytest.raises(LookupError, match=MEASURED):
        list(longctx.cases())


@pytest.fixture(scope="module")
def rows():
    if not os.environ.get(MEASURED):
        pytest.skip(f"{MEASURED} names no folder of measured tables")
    return list(longctx.rows())


def test_times_are_twice_as_close_as_the_trivial_baseline(rows):
    timed = [row for row in rows if row.metric.startswith("time") and row.predicted is not None]
    assert len(timed) > 100
    for split in ("calibration", "held out"):
        mine = [row for row in timed if row.split == split]
        error = np.mean([abs(row.error) for row in mine])
        assert error < 0.17, split
        assert error < 0.5 * np.mean([abs(row.trivial / row.reported - 1) for row in mine])


def test_the_chosen_scheme_is_rarely_slower_than_runs_of_equal_work_differ(rows):
    loose = [row for row in rows if row.metric.startswith("right winner, or")]
    strict = [row for row in rows if row.metric == "right winner"]
    assert len(loose) == len(strict) > 20
    assert np.mean([row.predicted for row in loose]) >= 0.8
    assert np.mean([row.predicted for row in strict]) >= 0.5
    assert all(row.reason for row in [*loose, *strict] if not row.predicted)
