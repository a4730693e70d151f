"""Buckets, chunks, packs and plans of one degree, against brute force and by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.solvers.blaster import chunks
from commlens.solvers.bucketing import buckets, doubling, equal_widths, rounding
from commlens.solvers.packing import best_fit
from commlens.solvers.sequences import SequenceCosts
from commlens.solvers.static_sequences import megatron_costs, plan_adaptive, plan_packed, plan_static

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=9).map(np.array)
# 10 tokens a rank, one second a token of a rank, half a second a micro-batch.
PLAIN = SequenceCosts(0.0, 1.0, 0.5, 1.0, {1: 1.0, 2: 1.0, 4: 0.5}, 1.0, 2.0, 12.0)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_buckets_add_the_fewest_tokens(lengths, count):
    found = buckets(lengths, count)
    different = np.unique(lengths)
    fewest = min(
        (np.array(upper)[np.searchsorted(upper, lengths)] - lengths).sum()
        for size in range(1, min(count, len(different)) + 1)
        for upper in combinations(different, size)
        if upper[-1] == different[-1]
    )
    assert len(found.upper) <= count
    assert (found.rounded >= lengths).all()
    assert (found.rounded - lengths).sum() == fewest
    assert rounding(lengths, found) <= min(rounding(lengths, equal_widths(lengths, count)), 1e9)


def test_naive_buckets():
    lengths = np.array([1, 2, 3, 4, 5, 9, 16])
    assert doubling(lengths).rounded.tolist() == [1, 2, 4, 4, 5, 16, 16]
    assert equal_widths(lengths, 4).rounded.tolist() == [4, 4, 4, 4, 5, 9, 16]
    assert rounding(lengths, doubling(lengths)) == pytest.approx(8 / 40)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 6))
def test_chunks_have_the_least_largest_sum(lengths, count):
    found = chunks(lengths, count)
    ordered = np.sort(lengths)
    assert np.concatenate([lengths[part] for part in found]).tolist() == ordered.tolist()
    inner = combinations(range(1, len(lengths)), min(count, len(lengths)) - 1)
    least = min(
        max(ordered[a:b].sum() for a, b in zip((0, *cuts), (*cuts, len(lengths)), strict=True)) for cuts in inner
    )
    assert max(lengths[part].sum() for part in found) == least
    assert len(found) <= count


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(30, 60))
def test_packs_hold_everything_once_and_are_at_least_half_full(lengths, capacity):
    packs = best_fit(lengths, capacity)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    sums = [int(lengths[pack].sum()) for pack in packs]
    assert max(sums) <= capacity
    assert all(a + b > capacity for a, b in combinations(sums, 2))  # else they would be one


def test_best_fit_fills_the_tightest_gap():
    assert best_fit([6, 5, 4, 3, 1], 10) == [[0, 2], [1, 3, 4]]
    with pytest.raises(ValueError, match="sequence 1 of 11 tokens"):
        best_fit([1, 11], 10)


def test_static_by_hand():
    # Degree 2 holds 20 tokens: packs [15, 5] and [12, 6], beside each other on 4 ranks.
    plan = plan_static([15, 5, 12, 6], PLAIN, 4, 2)
    assert [[s.sequences for s in some] for some in plan.micro_batches] == [[(0, 1), (2, 3)]]
    assert plan.time == pytest.approx(0.5 + 20 / 2 + 20 / 2)  # computed and exchanged at one second a token
    # The smallest degree that holds the longest is the default; a context asks for more, and makes packs smaller.
    assert len(plan_static([15, 5], PLAIN, 4).micro_batches[0][0].ranks) == 2
    assert len(plan_static([15, 5], PLAIN, 4, context=21).micro_batches[0][0].ranks) == 4
    assert len(plan_static([15, 5, 12, 6], PLAIN, 4, 2, context=15).micro_batches) == 2


def test_adaptive_takes_the_best_degree():
    lengths = [3] * 12
    times = {degree: plan_static(lengths, PLAIN, 4, degree).time for degree in (1, 2, 4)}
    assert plan_adaptive(lengths, PLAIN, 4).time == min(times.values()) == times[1]


def test_packed_groups_do_not_wait_for_each_other():
    lengths = [20, 8, 7, 20]  # packs in order: 20, 20, 8 + 7
    plan = plan_packed(lengths, PLAIN, 4, 2)
    assert not plan.barrier
    assert plan.time == pytest.approx((0.5 + 20) + (0.5 + 15))  # the first group takes the first and third pack
    plan.check(lengths)


def test_tensor_parallel_costs():
    costs = megatron_costs(PLAIN, 2, 2, gathered=6.0, tp_bandwidth=3.0, ring=8.0, cp_bandwidth=4.0)
    assert costs.degrees == (4,)
    # Half of 6 bytes at 3 a second for half of the tokens; half of the heads' 8 bytes, for half of the tokens, at 4.
    assert costs.exchange([1], 4)[0] == pytest.approx(6 / 2 / 3 / 2 + 8 / 2 / 2 / 4)
    assert costs.compute([4], 4)[0] == 1.0
    assert plan_packed([8, 8], costs, 4, 4).time > plan_packed([8, 8], PLAIN, 4, 4).time - 8


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"degree": 3}, "degree: 3 (legal: 1, 2, 4)"),
        ({"degree": 1}, "lengths[1]: 15 tokens on groups of 1 ranks (legal: 1 to 10)"),
        ({"context": 14}, "context: 14 (legal: 15 or more, the longest sequence)"),
    ],
)
def test_options_of_a_static_plan(options, line):
    with pytest.raises(InputError) as caught:
        plan_static([3, 15], PLAIN, 4, **options)
    assert str(caught.value) == line
