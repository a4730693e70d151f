"""Generated routing: loads, affinity and groups as its law says; the fit finds parameters again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens import InputError
from commlens.models.routing.fit import _root, fit
from commlens.models.routing.generate import (
    MIXTRAL_AFFINITY,
    MIXTRAL_PARTNERS,
    generate,
    joint,
    kernel,
    mixtral_like,
    nearness,
    transition,
    zipf,
)
from commlens.models.routing.statistics import affinity_by_layer, loads, pair_counts
from commlens.models.routing.trace import RoutingTrace
from commlens.models.routing.trace_file import load_trace
from commlens.solvers.expert_placement import place_experts
from commlens.validation import fit_routing


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 30),
    layers=st.integers(1, 4),
    groups=st.integers(1, 4),
    each=st.integers(1, 4),
    affinity=st.floats(0, 1),
    partners=st.floats(1, 20),
    persistence=st.sampled_from([0, 0.5, 1]),
    skew=st.floats(0, 4),
    data=st.data(),
)
def test_whatever_is_asked_for_is_a_trace(tokens, layers, groups, each, affinity, partners, persistence, skew, data):
    experts = groups * each
    limit = data.draw(st.none() | st.integers(1, groups))
    k = data.draw(st.integers(1, (limit or groups) * each))
    asked = {"affinity": affinity, "partners": partners, "persistence": persistence, "skew": skew}
    asked |= {"groups": groups, "limit": limit}
    trace = generate(tokens, layers, experts, k, **asked, seed=7)
    assert (trace.tokens, trace.layers, trace.count, trace.k) == (tokens, layers, experts, k)
    used = np.sort(trace.experts // each, axis=-1)
    assert (1 + (np.diff(used, axis=-1) > 0).sum(axis=-1)).max() <= (limit or groups)
    again = generate(tokens, layers, experts, k, **asked, seed=7)
    assert np.array_equal(trace.experts, again.experts)


@settings(max_examples=50)
@given(
    size=st.integers(1, 20),
    affinity=st.floats(0, 1),
    partners=st.floats(1, 9),
    persistence=st.floats(0, 1),
    skew=st.floats(0, 3),
    seed=st.integers(0, 99),
)
def test_margins_are_the_popularity_whatever_the_affinity(size, affinity, partners, persistence, skew, seed):
    generator = np.random.default_rng(seed)
    popular = generator.permutation(zipf(size, skew))
    near = kernel(size, partners, persistence, generator)
    np.testing.assert_allclose(near.sum(axis=0), 1)
    found = joint(popular, affinity, near)
    np.testing.assert_allclose(found.sum(axis=0), popular, rtol=1e-8)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(popular @ transition(popular, affinity, near), popular, rtol=1e-8)


def test_uniform_transitions_in_closed_form():
    # partners 2 on a long ring: half to the same place, 1/6 to each side, then thirds of it.
    found = transition(np.full(40, 1 / 40), 0.5, kernel(40, 2.0, 1.0, np.random.default_rng()))
    assert found[0, 0] == pytest.approx(0.5 / 40 + 0.25)
    assert found[0, 1] == found[0, 39] == pytest.approx(0.5 / 40 + 0.5 / 6)
    assert found[3, 5] == pytest.approx(0.5 / 40 + 0.5 / 18)
    assert nearness(5, 1.0).tolist() == [1, 0, 0, 0, 0]
    assert nearness(6, 1e9).tolist() == pytest.approx([1 / 6] * 6, rel=1e-6)


def test_loads_follow_the_popularity_through_strong_affinity():
    trace = generate(40_000, 5, 8, 3, affinity=0.9, partners=2.5, skew=0.8)
    for layer in loads(trace, "first"):
        np.testing.assert_allclose(np.sort(layer)[::-1], zipf(8, 0.8), atol=0.015)
    flat = loads(generate(40_000, 5, 8, 3, affinity=0.9))
    np.testing.assert_allclose(flat, 1 / 8, atol=0.01)


def test_a_fixed_partner_is_exflows_model():
    trace = generate(40_000, 3, 8, affinity=[0.2, 0.6], partners=1)
    assert affinity_by_layer(trace).markov.tolist() == pytest.approx([0.2, 0.6], abs=0.015)


def test_further_slots_are_drawn_without_replacement():
    # Two of three experts with shares 0.6, 0.3, 0.1: the pair's probability by hand.
    popular = np.array([0.6, 0.3, 0.1])
    skew = _root(lambda s: zipf(3, s)[0], 0.6, 0, 5)
    popular = zipf(3, skew)
    trace = generate(60_000, 1, 3, 2, skew=skew)
    ids = np.argsort(-loads(trace, "first")[0])
    for one, first in enumerate(ids):
        for two, second in enumerate(ids):
            if one != two:
                share = ((trace.experts[:, 0, 0] == first) & (trace.experts[:, 0, 1] == second)).mean()
                assert share == pytest.approx(popular[one] * popular[two] / (1 - popular[one]), abs=0.01)


def test_groups_keep_the_first_expert_and_bound_the_rest():
    free = generate(20_000, 2, 16, 4, skew=0.7, affinity=0.5, seed=3)
    bound = generate(20_000, 2, 16, 4, skew=0.7, affinity=0.5, seed=3, groups=8, limit=2)
    # Two groups of two experts each hold the four.
    assert (np.diff(np.sort(bound.experts // 2), axis=-1) > 0).sum(axis=-1).tolist() == [[1, 1]] * 20_000
    np.testing.assert_allclose(loads(bound, "first"), loads(free, "first"), atol=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": 0}, "tokens: 0 (legal: 1 to"),
        ({"tokens": 2**30, "layers": 64}, "slots in all"),
        ({"layers": 2.0}, "layers: 2.0"),
        ({"experts": 60_000}, "experts: 60000 (legal: at most"),
        ({"k": 9}, "k: 9 (legal: 1 to 8)"),
        ({"affinity": 1.1}, "affinity: 1.1 (legal: 0 to 1)"),
        ({"affinity": [0.1, np.nan]}, "affinity: nan"),
        ({"affinity": [0.1]}, "affinity: shape (1,) (legal: one number, or 2"),
        ({"affinity": "much"}, "affinity: 'much'"),
        ({"partners": 0.5}, "partners: 0.5 (legal: 1 or more)"),
        ({"persistence": 2}, "persistence: 2 (legal: 0 to 1)"),
        ({"skew": -1}, "skew: -1 (legal: 0 to 20)"),
        ({"groups": 3}, "groups: 3 of 8 experts (legal: a divisor of 8)"),
        ({"groups": 4, "limit": 5}, "limit: 5 (legal: 1 to 4)"),
        ({"groups": 4, "limit": 1, "k": 3}, "limit: 1 groups of 2 (legal: 3 experts or more, for k)"),
    ],
)
def test_parameters_that_cannot_be(options, said):
    asked = {"tokens": 10, "layers": 3, "experts": 8, "k": 2, **options}
    with pytest.raises(InputError) as caught:
        generate(asked.pop("tokens"), asked.pop("layers"), asked.pop("experts"), asked.pop("k"), **asked)
    assert said in str(caught.value)


# Fit


@pytest.mark.parametrize(
    ("tokens", "layers", "experts", "k", "affinity", "partners", "skew"),
    [
        (6000, 8, 16, 2, 0.5, 2.0, 0.0),
        (6000, 8, 16, 1, 0.5, 1.0, 0.5),
        (20_000, 4, 64, 6, 0.6, 4.0, 0.7),
        (5000, 6, 8, 2, [0.1, 0.3, 0.5, 0.7, 0.9], 2.0, 0.3),
    ],
)
def test_the_fit_finds_the_parameters_again(tokens, layers, experts, k, affinity, partners, skew):
    found = fit(generate(tokens, layers, experts, k, affinity=affinity, partners=partners, skew=skew, seed=3))
    assert found["affinity"] == pytest.approx(np.broadcast_to(affinity, layers - 1).tolist(), abs=0.06)
    assert found["partners"] == pytest.approx(partners, rel=0.12)
    assert found["skew"] == pytest.approx(skew, abs=0.06)
    assert found["persistence"] > 0.85 or partners == 1
    assert generate(**found).experts.shape == (tokens, layers, k)


def test_the_fit_finds_which_places_stay_near():
    trace = generate(10_000, 8, 16, 2, affinity=0.7, partners=3.0, persistence=0.6, seed=2)
    assert fit(trace)["persistence"] == pytest.approx(0.6, abs=0.15)
    trace = generate(10_000, 8, 16, 2, affinity=0.7, partners=3.0, persistence=0.0, seed=2)
    assert fit(trace)["persistence"] < 0.4  # a little of it makes hardly a difference


def test_nothing_is_found_where_nothing_is():
    found = fit(generate(20_000, 4, 8, 2))
    follows = np.array(found["affinity"]) * nearness(8, found["partners"])[0]
    assert follows.max() < 0.03
    assert found["skew"] < 0.05
    assert fit(RoutingTrace(np.zeros((3, 2, 1), int), 1))["affinity"] == [0.0]
    assert fit(RoutingTrace(np.arange(8).reshape(4, 1, 2), 8))["affinity"] == []
    assert len(fit(RoutingTrace(np.arange(8).reshape(2, 2, 2), 8))["affinity"]) == 1
    with pytest.raises(InputError, match="1 token"):
        fit(RoutingTrace([[[0]]], 2))


def test_mixtral_is_matched_on_four_and_eight_gpus():
    # One parameter, fitted to 8 GPUs; 4 GPUs are held out.
    assert fit_routing.fitted() == pytest.approx(MIXTRAL_AFFINITY, abs=5e-5)
    for pairs in (fit_routing.expected(MIXTRAL_AFFINITY, MIXTRAL_PARTNERS), pair_counts(mixtral_like())):
        for devices, published in fit_routing.PUBLISHED.items():
            found = place_experts(pairs, devices, time_limit=5.0)
            assert found.crossings == pytest.approx(published, rel=0.02)
            assert found.bound >= 0.98 * found.crossings


def test_a_fit_of_the_shipped_trace_makes_one_like_it():
    trace = load_trace("stdlib-moe")
    found = fit(trace)
    drawn = generate(**found, seed=1)
    np.testing.assert_allclose(
        (loads(drawn, "first") ** 2).sum(axis=1).mean(), (loads(trace, "first") ** 2).sum(axis=1).mean(), rtol=0.05
    )
    one, other = affinity_by_layer(trace), affinity_by_layer(drawn)
    np.testing.assert_allclose(other.markov, one.markov, atol=0.07)
    np.testing.assert_allclose(other.largest, one.largest, atol=0.12)
    # Real experts also avoid each other, which the model does not have: its information is less.
    assert (0.4 * one.information < other.information).all()
    assert other.information.mean() < one.information.mean()
    for devices in (2, 4, 8):
        best = [place_experts(pair_counts(some), devices, prove=False, time_limit=0.7) for some in (trace, drawn)]
        assert best[1].crossings == pytest.approx(best[0].crossings, rel=0.12), devices
