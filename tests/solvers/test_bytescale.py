"""Hybrid data parallelism: limits of offload, what a ring costs, and plans that keep what they must."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.solvers.balance import Work, by_class, finish_times, in_turn, level
from commlens.solvers.bytescale import degrees, plan_bytescale, plan_megascale, played, waves
from commlens.solvers.hybrid_costs import HdpCosts
from commlens.solvers.offload import held_degree, hidden_ratio, needed_ratio, smallest_degree

C = 8192
COSTS = HdpCosts(
    quadratic=1.3e-9,
    linear=6e-5,
    exchange=6.5e-6,
    capacity=C,
    layers=32,
    fixed=1e-3,
    activation=1.2e5,
    d2h=15e9,
    h2d=20e9,
    backward_exchange=3.0,
)

lengths_of = st.lists(
    st.sampled_from([1, 100, 3000, C - 1, C, C + 1, 3 * C, 20_000, 7 * C + 5]), min_size=1, max_size=25
)


def test_what_one_rank_holds_exchanges_nothing():
    silent = replace(COSTS, exchange=0.0)
    some = [100, 3000, 5000]
    assert COSTS.time(some, 1) == silent.time(some, 1)
    assert COSTS.time(some, 1) == pytest.approx(COSTS.fixed + COSTS.compute(some).sum())


@pytest.mark.parametrize("degree", [2, 3, 39])
def test_a_ring_is_as_long_as_the_slower_of_block_and_message(degree):
    s = degree * C
    block, message = COSTS.quadratic * C**2, COSTS.exchange * C
    linear = 3 * COSTS.linear * C + COSTS.fixed
    assert COSTS.time([s], degree) == pytest.approx(
        linear + (degree - 1) * max(block, message) + block + (degree - 1) * max(2.5 * block, 3 * message) + 2.5 * block
    )
    slow = replace(COSTS, exchange=1.0)
    total, bound = slow.ring(s * s, s, degree)
    assert bound == pytest.approx((degree - 1) * 4 * C)
    assert total == pytest.approx(bound + 3.5 * block)


def test_a_packed_ring_passes_on_all_tokens_whatever_the_sequences():
    cp = 64
    long = COSTS.ring(float(cp * C) ** 2, cp * C, cp)
    short = COSTS.ring(float(C) ** 2 * cp, cp * C, cp)
    assert long[1] == 0  # its blocks hide the messages
    assert short[1] == pytest.approx((cp - 1) * COSTS.exchange * C * 4)


def test_offload_limits():
    s = np.array([1, C, 10 * C, 10 * C + 1, 64 * C])
    assert held_degree(s, 0.0, COSTS).tolist() == [1, 1, 10, 11, 64]
    # all inner layers away: 2 of 32 are left
    assert held_degree(s, 1.0, COSTS).tolist() == [1, 1, 1, 1, 4]
    assert held_degree([16 * C, 16 * C + 1], 1.0, COSTS).tolist() == [1, 2]
    # no room or no time to copy: no offload; endless copies: all of it
    still = replace(COSTS, d2h=1e-3)
    assert smallest_degree(s, still).tolist() == [1, 1, 10, 11, 64]
    swift = replace(COSTS, d2h=1e18, h2d=1e18)
    assert hidden_ratio(s, swift).tolist() == [1, 1, 1, 1, 1]
    assert smallest_degree(s, swift).tolist() == [1, 1, 1, 1, 4]
    assert smallest_degree(s, replace(swift, host=1.0)).tolist() == [1, 1, 10, 11, 64]
    # one or two layers have none between the first and the last
    for layers in (1, 2):
        assert smallest_degree(s, replace(swift, layers=layers)).tolist() == [1, 1, 10, 11, 64]


def test_offload_knee_is_where_the_copy_takes_as_long_as_the_layer():
    # T(s) = r Act(s) / B: with quadratic, linear and bytes as above
    knee = (COSTS.activation * COSTS.layers / 15e9 - COSTS.linear) / COSTS.quadratic
    below, at, above = hidden_ratio([knee * 0.9, knee, knee * 1.1], COSTS)
    assert below < 1
    assert at == pytest.approx(1)
    assert above == 1
    assert below == pytest.approx(
        (COSTS.quadratic * 0.9 * knee + COSTS.linear) / COSTS.layers * 15e9 / COSTS.activation
    )


@given(st.integers(1, 4_000_000), st.integers(1, 600))
def test_the_needed_ratio_is_the_inverse_of_the_degree(length, degree):
    ratio = float(needed_ratio(length, degree, COSTS))
    if ratio > 1:
        assert held_degree(length, 1.0, COSTS) > degree
    else:
        assert held_degree(length, ratio, COSTS) <= degree
        if ratio > 1e-6:
            assert held_degree(length, ratio - 1e-6, COSTS) >= degree


@settings(max_examples=60)
@given(lengths_of, st.integers(8, 20), st.sampled_from(["none", "dp", "pp"]), st.booleans(), st.integers(1, 3))
def test_plans_keep_what_they_must(lengths, ranks, balance, offload, pp):
    given_lengths = np.array(lengths)
    plan = plan_bytescale(lengths, COSTS, ranks, balance=balance, offload=offload, pp=pp)
    plan.check(lengths)
    ends = played(plan, COSTS, lengths, pp)
    assert ends.max() == pytest.approx(plan.time)
    assert plan.bound <= plan.time * (1 + 1e-12)
    works = [share for shares in plan.micro_batches for share in shares]
    times = [COSTS.time(given_lengths[list(w.sequences)], len(w.ranks)) for w in works]
    total = sum(t * len(w.ranks) for t, w in zip(times, works, strict=True))
    assert plan.time >= max(total / ranks, pp * max(times)) * (1 - 1e-12)
    assert plan.time >= COSTS.compute(given_lengths).sum() / ranks * (1 - 1e-12)
    for work in works:
        tokens = given_lengths[list(work.sequences)].sum()
        kept = (2 + 30 * (1 - work.offload)) / 32
        assert tokens / len(work.ranks) * kept <= C * (1 + 1e-9)
        assert 0 <= work.offload <= hidden_ratio(tokens, COSTS) + 1e-9
        assert len(work.ranks) == 1 or len(work.sequences) == 1
        assert offload or work.offload == 0
    if balance != "none":
        naive = plan_bytescale(lengths, COSTS, ranks, balance="none", offload=offload, pp=pp)
        assert plan.time <= naive.time * (1 + 1e-12)


@settings(max_examples=60)
@given(lengths_of, st.integers(8, 20))
def test_fewer_ranks_are_taken_only_where_they_cost_less(lengths, ranks):
    s = np.array(lengths)
    taken, without = degrees(s, COSTS, ranks), degrees(s, COSTS, ranks, offload=False)
    assert (taken <= without).all()
    assert (taken * COSTS.times(s, taken) <= without * COSTS.times(s, without) * (1 + 1e-12)).all()
    # with messages for nothing there is nothing to gain
    free = replace(COSTS, exchange=0.0, fixed=0.0)
    assert degrees(s, free, ranks).tolist() == degrees(s, free, ranks, offload=False).tolist()


def best_by_hand(works: list[Work], ranks: int) -> float:
    """Least end over every order and every group."""
    best = np.inf
    groups = {w: list(dict.fromkeys(tuple(sorted(g)) for g in permutations(range(ranks), w))) for w in (1, 2, 3)}
    for order in permutations(works):
        for chosen in product(*(groups[w.width] for w in order)):
            placement = [(w, np.array(g)) for w, g in zip(order, chosen, strict=True)]
            best = min(best, finish_times(placement, ranks).max())
    return best


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=4))
def test_level_against_every_placement(sizes):
    works = [Work((i,), width, float(time)) for i, (width, time) in enumerate(sizes)]
    best = best_by_hand(works, 3)
    end = finish_times(level(works, 3), 3).max()
    bound = max(sum(w.width * w.time for w in works) / 3, max(w.time for w in works))
    assert bound <= best * (1 + 1e-12)
    # Longest first on machines alike is within 4/3 of the best when one rank does each work (Graham 1969).
    alone = all(w.width == 1 for w in works)
    assert end <= best * (4 / 3 if alone else 2) * (1 + 1e-12)


def test_gaps_that_wide_groups_leave_are_filled():
    # the third rank is idle until the first two are done with theirs: 4 s fit into 5 s
    works = [Work((0,), 2, 5.0), Work((1,), 3, 3.0), Work((2,), 1, 4.0)]
    assert finish_times(level(works, 3), 3).max() == 8.0


def test_a_group_takes_the_ranks_that_wait_least():
    # two of the three are busy for 10 s in any case, so the fourth rank stays free for what takes 12 s
    works = [Work((0,), 2, 10.0), Work((1,), 3, 4.0), Work((2,), 1, 12.0)]
    assert finish_times(level(works, 4), 4).max() == 14.0


def test_a_pipeline_of_unlike_micro_batches():
    # stages in turn: the sum of the times and (stages - 1) of the longest, in any order
    works = [Work((i,), 1, t) for i, t in enumerate((1.0, 4.0, 2.0))]
    for order in permutations(works):
        assert finish_times(in_turn(list(order), 1), 1, stages=3)[0] == 7 + 2 * 4


def test_one_class_to_a_pipeline_saves_its_bubble():
    # 2 long and 8 short on 4 pipelines of 4 stages
    works = [Work((i,), 1, t) for i, t in enumerate([4.0] * 2 + [1.0] * 8)]
    classed = by_class(works, 4, 4, 2)
    assert finish_times(level(works, 4), 4, 4).max() == 4 * 4
    assert finish_times(classed, 4, 4).max() == 4 * 4
    long = {int(group[0]) for work, group in classed if work.time == 4}
    short = {int(group[0]) for work, group in classed if work.time == 1}
    assert not long & short
    # too few ranks for the widest of both side by side
    assert by_class([Work((0,), 3, 4.0), Work((1,), 3, 4.0)], 4, 2, 2) is None


def test_balance_for_pipelines_beats_balance_for_data_parallelism():
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(100, C, 900), rng.integers(10 * C, 14 * C, 6)])
    dp = plan_bytescale(lengths, COSTS, 64, pp=8)
    pp = plan_bytescale(lengths, COSTS, 64, pp=8, balance="pp")
    assert pp.time < 0.95 * dp.time


def test_waves_keep_the_order_of_every_rank():
    works = [
        (Work((0,), 2, 1.0), np.array([0, 1])),
        (Work((1,), 1, 1.0), np.array([1])),
        (Work((2,), 1, 1.0), np.array([2])),
    ]
    assert [[share.sequences for share in shares] for shares in waves(works, 3)] == [[(0,), (2,)], [(1,)]]


def test_the_baseline_deals_out_packs():
    lengths = [8 * C] * 4 + [C] * 16
    plan = plan_megascale(lengths, COSTS, 17, 8)
    plan.check(lengths)
    assert all(len(share.ranks) == 8 for shares in plan.micro_batches for share in shares)
    one, packed = COSTS.time([8 * C], 8), COSTS.time([C] * 8, 8)
    assert plan.time == pytest.approx(max(2 * one + packed, 3 * packed))


def test_tens_of_thousands_of_sequences_take_seconds():
    rng = np.random.default_rng(1)
    lengths = np.minimum(rng.pareto(0.9, 20_000) * 300 + 100, 2_000_000).astype(int)
    plan = plan_bytescale(lengths, COSTS, 3072, balance="pp", pp=2)
    plan.check(lengths)
    assert plan.seconds < 20


BAD = [
    ([], "shape"),
    ([[1, 2]], "shape"),
    ([5, 0], r"lengths\[1\]: 0 "),
    ([-3], r"lengths\[0\]: -3 "),
    ([5, float("nan")], r"lengths\[1\]: nan "),
    ([5.5], r"lengths\[0\]: 5.5 "),
    (["x"], r"lengths\[0\]: 'x' "),
]


@pytest.mark.parametrize(("lengths", "text"), BAD)
@pytest.mark.parametrize("plan", [lambda x: plan_bytescale(x, COSTS, 8), lambda x: plan_megascale(x, COSTS, 8, 8)])
def test_bad_lengths_are_one_line(plan, lengths, text):
    with pytest.raises(InputError, match=text) as caught:
        plan(lengths)
    assert "\n" not in str(caught.value)


def test_too_long_for_any_plan_names_the_smallest_degree():
    with pytest.raises(
        InputError, match=rf"lengths\[1\]: {9 * C} tokens need 9 ranks .* there are 8 \(legal: 1 to {8 * C}\)"
    ):
        plan_bytescale([5, 9 * C], COSTS, 8, offload=False)
    plan_bytescale([5, 9 * C], COSTS, 8)  # offload makes room
    swift = replace(COSTS, d2h=1e18, h2d=1e18)
    largest = 8 * 16 * C  # 2 of 32 layers are left
    assert degrees(np.array([largest]), swift, 8)[0] == 8
    with pytest.raises(InputError, match=rf"need 9 ranks .* \(legal: 1 to {largest}\)"):
        plan_bytescale([largest + 1], swift, 8)
    with pytest.raises(InputError, match=r"lengths\[1\]: .* groups of 9 ranks"):
        plan_megascale([5, 9 * C], COSTS, 16, 8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"capacity": 0}, "costs.capacity"),
        ({"capacity": 1.5}, "costs.capacity"),
        ({"quadratic": float("nan")}, "costs.quadratic"),
        ({"exchange": -1.0}, "costs.exchange"),
        ({"d2h": 0.0}, "costs.d2h"),
        ({"layers": 0}, "costs.layers"),
    ],
)
def test_bad_costs_are_one_line(change, text):
    with pytest.raises(InputError, match=text):
        replace(COSTS, **change)


def test_other_bad_input_is_one_line():
    with pytest.raises(InputError, match=r"balance: 'ddp' .legal: dp, pp, none.; did you mean dp"):
        plan_bytescale([5], COSTS, 8, balance="ddp")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ranks: 0"):
        plan_bytescale([5], COSTS, 0)
    with pytest.raises(InputError, match=r"pp: 1.5"):
        plan_bytescale([5], COSTS, 8, pp=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"cp: 9 .legal: 1 to 8"):
        plan_megascale([5], COSTS, 8, 9)
