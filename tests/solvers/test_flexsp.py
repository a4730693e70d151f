"""FlexSP's planner: brute force on small cases, what plans keep, time limits, and input that cannot be planned."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.solvers.blaster import chunks
from commlens.solvers.flexsp import plan_flexsp
from commlens.solvers.group_planner import quick, task
from commlens.solvers.group_program import program
from commlens.solvers.sequences import SequenceCosts, SequencePlan
from commlens.solvers.static_sequences import plan_adaptive, plan_static

# 10 tokens a rank; times near 1 whose parts all matter.
SMALL = SequenceCosts(0.01, 0.1, 0.3, 1.0, {1: 1.0, 2: 9.0, 4: 5.0, 8: 2.0}, 1.0, 2.0, 12.0)
# GPT-7B's of the published code (64 ranks of 30 GiB).
GIB, MIB = 2.0**30, 2.0**20
BIG = SequenceCosts(
    5.128e-9, 1.8396e-4, 0.62936, 8 * 32 * 4096 * 2,
    {1: 1.0} | {d: v * MIB * 1e3 for d, v in {2: 119.54, 4: 104.07, 8: 96.5, 16: 10.33, 32: 5.94, 64: 4.87}.items()},
    4.4804 * MIB, 7.117 * 16 * GIB / 64, 30 * GIB,
)  # fmt: skip


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every division of items into sets."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], [items[0], *rest[i]], *rest[i + 1 :]]


def fastest(lengths: np.ndarray, costs: SequenceCosts, ranks: int) -> float:
    """Makespan of one micro-batch by trying everything, infinite when nothing fits."""
    best = np.inf
    for sets in partitions(list(range(len(lengths)))):
        for degrees in product([d for d in costs.degrees if d <= ranks], repeat=len(sets)):
            fits = all(costs.memory(lengths[s], d) <= costs.capacity for s, d in zip(sets, degrees, strict=True))
            if fits and sum(degrees) <= ranks:
                best = min(best, max(costs.time(lengths[s], d) for s, d in zip(sets, degrees, strict=True)))
    return best


def recounted(plan: SequencePlan, lengths: np.ndarray, costs: SequenceCosts) -> float:
    """Time of a plan from its shares alone, after checking that they can be."""
    plan.check(lengths.tolist())
    total = 0.0
    for some in plan.micro_batches:
        for share in some:
            assert costs.memory(lengths[list(share.sequences)], len(share.ranks)) <= costs.capacity * (1 + 1e-12)
        total += max(costs.time(lengths[list(share.sequences)], len(share.ranks)) for share in some)
    return total


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5).map(np.array)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([4, 5, 8]))
def test_equals_brute_force(lengths, ranks):
    tokens = SMALL.tokens * ranks
    if lengths.max() > SMALL.tokens * (4 if ranks < 8 else 8):
        return
    plan = plan_flexsp(lengths, SMALL, ranks)
    least = int(np.ceil(lengths.sum() / tokens))
    tried = [
        sum(fastest(lengths[part], SMALL, ranks) for part in chunks(lengths, count))
        for count in range(least, least + 5)
    ]
    best = min([plan_adaptive(lengths, SMALL, ranks).time, *tried])
    assert plan.time == pytest.approx(best, rel=1e-5)
    assert plan.time == pytest.approx(recounted(plan, lengths, SMALL))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([4, 5, 8]), st.booleans())
def test_the_integer_program_alone_equals_brute_force(lengths, ranks, begun):
    lengths = np.sort(lengths)[::-1]
    if lengths.max() > SMALL.tokens * (4 if ranks < 8 else 8):
        return
    work = task(lengths, SMALL, ranks)
    start = quick(work) if begun else None
    _, bucket = np.unique(lengths, return_inverse=True)
    answer = program(work, bucket, start, 0.0, 10.0)
    best = fastest(lengths, SMALL, ranks)
    assert answer.optimal
    assert (answer.groups.time if answer.groups else np.inf) == pytest.approx(best, rel=1e-5)
    assert answer.groups is None or answer.bound == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize(("lengths", "ranks"), [([6, 7, 18, 34, 16], 5), ([17, 10, 18, 4, 32], 5)])
def test_where_packing_finds_no_place_the_integer_program_does(lengths, ranks):
    given = np.array(lengths)
    parts = chunks(given, 2)
    works = [task(np.sort(given[part])[::-1], SMALL, ranks) for part in parts]
    assert any(quick(work) is None for work in works)
    plan = plan_flexsp(given, SMALL, ranks)
    assert plan.time <= sum(fastest(given[part], SMALL, ranks) for part in parts) * (1 + 1e-5) < np.inf


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4).map(np.array))
def test_no_division_into_micro_batches_is_below_the_bound(lengths):
    plan = plan_flexsp(lengths, SMALL, 4)
    every = (sum(fastest(lengths[part], SMALL, 4) for part in parts) for parts in partitions(list(range(len(lengths)))))
    assert plan.bound <= min(every) * (1 + 1e-6)
    assert plan.bound <= plan.time


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=60).map(np.array), st.integers(8, 20))
def test_never_worse_than_one_degree_and_every_sequence_once(lengths, ranks):
    plan = plan_flexsp(lengths, SMALL, ranks, buckets=4, trials=2, time_limit=0.3)
    assert plan.time == pytest.approx(recounted(plan, lengths, SMALL))
    adaptive = plan_adaptive(lengths, SMALL, ranks)
    assert adaptive.time == pytest.approx(recounted(adaptive, lengths, SMALL))
    assert plan.bound <= plan.time <= adaptive.time
    for degree in (1, 2, 4, 8):
        if lengths.max() <= degree * SMALL.tokens:
            static = plan_static(lengths, SMALL, ranks, degree)
            assert static.time == pytest.approx(recounted(static, lengths, SMALL))
            assert adaptive.time <= static.time


def corpus(seed: int, count: int = 512) -> np.ndarray:
    """Long-tailed lengths, in multiples of 128."""
    drawn = np.random.default_rng(seed).lognormal(5.9, 1.4, count)
    return (128 * np.ceil(np.clip(drawn, 1, 190_000) / 128)).astype(int)


def test_512_sequences_on_64_ranks_in_ten_seconds():
    lengths = np.append(corpus(3), 60_032)
    began = perf_counter()
    plan = plan_flexsp(lengths, BIG, 64)
    assert perf_counter() - began < 11  # the limit of 10 s, and what the last program takes to notice
    assert plan.time == pytest.approx(recounted(plan, lengths, BIG))
    assert 0 < plan.gap < 0.25
    assert plan.time < plan_adaptive(lengths, BIG, 64).time


def test_long_sequences_get_large_groups_and_short_ones_small():
    lengths = np.array([100_096] + [1024] * 200)
    plan = plan_flexsp(lengths, BIG, 64, time_limit=2)
    degree = {i: len(s.ranks) for shares in plan.micro_batches for s in shares for i in s.sequences}
    assert degree[0] >= 16
    assert np.median([degree[i] for i in range(1, 201)]) <= 8


def test_out_of_time_it_returns_its_best_plan_and_says_so():
    lengths = np.append(corpus(4), 60_032)
    plan = plan_flexsp(lengths, BIG, 64, time_limit=0)
    assert plan.status == "time limit"
    assert recounted(plan, lengths, BIG) == pytest.approx(plan.time)
    assert plan.time <= plan_adaptive(lengths, BIG, 64).time
    assert plan.seconds < 1
    again = plan_flexsp(lengths, BIG, 64, time_limit=1.5)
    assert again.time <= plan.time
    assert again.seconds < 3


def test_a_plan_that_is_proved_the_best_is_called_so():
    plan = plan_flexsp([5, 5, 5, 5], SMALL, 4)
    assert plan.status == "optimal"
    assert plan.gap == pytest.approx(0, abs=1e-4)


def test_progress_ends_at_the_end():
    seen: list[tuple[int, int]] = []
    plan_flexsp([5, 9, 3], SMALL, 4, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("lengths", "line"),
    [
        ([], "lengths: shape (0,) (legal: a list of one length or more)"),
        ([5, 0], "lengths[1]: 0 (legal: a whole number of tokens, 1 or more)"),
        ([-3], "lengths[0]: -3 (legal: a whole number of tokens, 1 or more)"),
        ([1, float("nan")], "lengths[1]: nan (legal: a whole number of tokens, 1 or more)"),
        ([1, float("inf")], "lengths[1]: inf (legal: a whole number of tokens, 1 or more)"),
        ([2.5], "lengths[0]: 2.5 (legal: a whole number of tokens, 1 or more)"),
        ([1, "long"], "lengths[1]: 'long' (legal: a whole number of tokens, 1 or more)"),
        (
            [9, 141],
            "lengths[1]: 141 tokens need groups of 16 ranks or more, and the largest of 8 ranks has 8 with "
            "10 tokens each (legal: 1 to 80)",
        ),
    ],
)
def test_lengths_that_cannot_be_planned(lengths, line):
    for plan in (plan_flexsp, plan_static, plan_adaptive):
        with pytest.raises(InputError) as caught:
            plan(lengths, SMALL, 8)
        assert str(caught.value) == line


@pytest.mark.parametrize(
    ("costs", "ranks", "options", "start"),
    [
        (replace(SMALL, state_bytes=12.0), 8, {}, "costs.state_bytes: "),
        (SMALL, 0, {}, "ranks: 0 (legal: "),
        (replace(SMALL, bandwidth={4: 1.0}), 2, {}, "ranks: 2 is less than every degree"),
        (SMALL, 8, {"buckets": 0}, "buckets: 0 (legal: 1 or more)"),
        (SMALL, 8, {"trials": 0}, "trials: 0 (legal: 1 or more)"),
        (SMALL, 8, {"time_limit": float("nan")}, "time_limit: nan (legal: 0 or more)"),
    ],
)
def test_options_out_of_range(costs, ranks, options, start):
    with pytest.raises(InputError) as caught:
        plan_flexsp([5], costs, ranks, **options)
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
