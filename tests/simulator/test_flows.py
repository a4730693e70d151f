"""Flows on arrays of links against the sharing rule, the event engine, a linear program and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from commlens.simulator import Program, max_min, run
from commlens.simulator import bundles as bundles_module
from commlens.simulator.flows import fair_rates, flow_times, isolated_rates


@st.composite
def cases(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    """Up to 8 flows over up to 5 links; a link may come twice, a path may be short or empty."""
    links = draw(st.integers(1, 5))
    paths = [
        [*path, *[-1] * (3 - len(path))]
        for path in draw(st.lists(st.lists(st.integers(0, links - 1), max_size=3), min_size=1, max_size=8))
    ]
    capacity = [draw(st.sampled_from([1.0, 2.0, 2.0, 3.3, 10.0])) for _ in range(links)]
    weight = [draw(st.sampled_from([1.0, 1.0, 0.5, 3.0])) for _ in paths]
    size = [draw(st.sampled_from([1.0, 1.0, 2.5, 0.3, 0.0])) for _ in paths]
    start = [draw(st.sampled_from([0.0, 0.0, 0.4, 1.5])) for _ in paths]
    return np.array(paths), np.array(capacity), np.array(weight), np.array(size), np.array(start)


def amounts(paths: np.ndarray, links: int) -> np.ndarray:
    """How often each flow uses each link, shape (flows, links)."""
    table = np.zeros((len(paths), links))
    for i, path in enumerate(paths):
        for link in path[path >= 0]:
            table[i, link] += 1
    return table


def fabric(ranks: int, per_leaf: int, spines: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All pairs on a two-level tree, each flow on a spine drawn at random; built without the package."""
    source, target = np.nonzero(~np.eye(ranks, dtype=bool))
    spine = np.random.default_rng(seed).integers(0, spines, len(source))
    leaves = ranks // per_leaf
    here, there = source // per_leaf, target // per_leaf
    up = np.where(here == there, -1, 2 * ranks + here * spines + spine)
    down = np.where(here == there, -1, 2 * ranks + leaves * spines + there * spines + spine)
    return np.stack([source, up, down, ranks + target], axis=1), np.full(2 * ranks + 2 * leaves * spines, 50e9)


@settings(max_examples=150)
@given(cases())
def test_equals_the_sharing_rule(case) -> None:  # type: ignore[no-untyped-def]
    paths, capacity, weight, _, _ = case
    alone = isolated_rates(paths, capacity)
    used = np.isfinite(alone)
    usage = amounts(paths, len(capacity))[used] * alone[used, None] / capacity
    expected = np.full(len(paths), np.inf)
    expected[used] = max_min(np.minimum(usage, 1.0), weight[used]) * alone[used]
    factor = np.where(used, alone, 1.0)
    np.testing.assert_allclose(fair_rates(paths, capacity, weight * factor), expected, rtol=1e-9)
    if (weight == 1).all():
        np.testing.assert_allclose(fair_rates(paths, capacity), expected, rtol=1e-9)


@settings(max_examples=60)
@given(cases())
def test_equals_the_linear_program(case) -> None:  # type: ignore[no-untyped-def]
    """Raise the lowest rate over weight, fix who cannot go on, repeat."""
    paths, capacity, weight, _, _ = case
    keep = (paths >= 0).any(axis=1)
    paths, weight = paths[keep], weight[keep]
    use = amounts(paths, len(capacity)).T
    level = np.zeros(len(paths))
    rising = np.ones(len(paths), dtype=bool)
    while rising.any():

        def highest(cost: np.ndarray, least: np.ndarray) -> np.ndarray:
            bounds = [(low, None if up else low) for low, up in zip(least, rising, strict=True)]
            answer = linprog(-cost, use * weight, capacity * (1 + 1e-9), bounds=bounds)
            assert answer.status == 0
            return answer.x

        # Level as one more column: every rising flow is at least there.
        answer = linprog(
            [*np.zeros(len(paths)), -1.0],
            np.vstack([np.hstack([use * weight, np.zeros((len(capacity), 1))]),
                       np.hstack([-np.eye(len(paths)), np.ones((len(paths), 1))])[rising]]),
            [*capacity, *np.zeros(int(rising.sum()))],
            bounds=[(low, None if up else low) for low, up in zip(level, rising, strict=True)] + [(0, None)],
        )  # fmt: skip
        assert answer.status == 0
        reached = answer.x[-1]
        least = np.where(rising, reached, level)
        stuck = [i for i in np.flatnonzero(rising) if highest(np.eye(len(paths))[i], least)[i] <= reached + 1e-6]
        assert stuck
        level[stuck] = reached
        rising[stuck] = False
    np.testing.assert_allclose(fair_rates(paths, capacity, weight), level * weight, rtol=1e-5)


@settings(max_examples=120)
@given(cases())
def test_equals_the_event_engine(case) -> None:  # type: ignore[no-untyped-def]
    paths, capacity, weight, size, start = case
    program = Program("flows")
    names = [program.resource(f"link{k}", value) for k, value in enumerate(capacity)]
    for i, row in enumerate(amounts(paths, len(capacity))):
        demand = {name: times * size[i] for name, times in zip(names, row, strict=True) if times}
        program.add("send", kind="communication", rank=i, demand=demand, latency=start[i], weight=weight[i])
    alone = isolated_rates(paths, capacity)
    factor = np.where(np.isfinite(alone), alone, 1.0)
    answer = flow_times(paths, size, capacity, weight * factor, start)
    np.testing.assert_allclose(answer.finish, run(program).end, rtol=1e-8, atol=1e-9)
    totals = [program.totals()[name] for name in names]
    np.testing.assert_allclose(answer.load, totals, atol=1e-12)


def lockstep(paths: np.ndarray, size: np.ndarray, capacity: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Every flow by itself, solved afresh at every event."""
    finish, left, now = np.full(len(size), np.inf), size.copy(), 0.0
    while np.isinf(finish).any():
        active = np.isinf(finish) & (start <= now)
        later = start[np.isinf(finish) & ~active].min(initial=np.inf)
        rate = np.zeros(len(size))
        rate[active] = fair_rates(paths[active], capacity)
        need = np.full(len(size), np.inf)
        need[active] = left[active] / rate[active]
        step = min(need.min(), later - now)
        left -= rate * step
        finish[need <= step * (1 + 1e-12)] = now + step
        now += step
    return finish


@pytest.mark.parametrize("sizes", [1, 3])
@pytest.mark.parametrize("starts", [1, 2])
def test_bundles_change_nothing(monkeypatch: pytest.MonkeyPatch, sizes: int, starts: int) -> None:
    paths, capacity = fabric(32, 8, 2)
    rng = np.random.default_rng(1)
    size = 1e6 * rng.integers(1, sizes + 1, len(paths))
    start = 1e-4 * rng.integers(0, starts, len(paths))
    expected = lockstep(paths, size, capacity, start)
    monkeypatch.setattr(bundles_module, "_FEW", 4)
    monkeypatch.setattr(bundles_module, "_WORTH", 0.95)
    tried: list[int] = []
    inner = bundles_module._bundle

    def watched(flows, kept):  # type: ignore[no-untyped-def]
        merged = inner(flows, kept)
        tried.append(0 if merged is None else len(merged[1].paths))
        return merged

    monkeypatch.setattr(bundles_module, "_bundle", watched)
    answer = flow_times(paths, size, capacity, start=start)
    np.testing.assert_allclose(answer.finish, expected, rtol=1e-9)
    assert any(tried)


def test_a_watched_link_that_fills_up_is_let_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Link 1 is half full while both sorts run on link 0, and binds once the first sort has ended.
    paths = np.array([[0, -1]] * 40 + [[0, 1]] * 10 + [[0, 2]] * 10)
    capacity = np.array([10.0, 2.5, 100.0])
    size = np.array([1.0] * 40 + [3.0] * 20)
    expected = lockstep(paths, size, capacity, np.zeros(60))
    monkeypatch.setattr(bundles_module, "_FEW", 4)
    monkeypatch.setattr(bundles_module, "_FAR_FROM_FULL", 0.9)
    np.testing.assert_allclose(flow_times(paths, size, capacity).finish, expected, rtol=1e-9)


def test_many_equal_flows_are_one_event() -> None:
    answer = flow_times(np.zeros((100_000, 1), dtype=int), 2.0, [1e3])
    np.testing.assert_allclose(answer.finish, 200.0)
    assert answer.events == 1
    assert answer.makespan == answer.bound == pytest.approx(200.0)


@pytest.mark.parametrize("spines", [2, 8])
def test_tolerance_costs_little_and_saves_events(spines: int) -> None:
    paths, capacity = fabric(64, 16, spines)
    exact = flow_times(paths, 1e6, capacity)
    close = flow_times(paths, 1e6, capacity, tolerance=0.02)
    assert close.events < exact.events / 4
    assert close.makespan == pytest.approx(exact.makespan, rel=0.02)
    assert close.finish.mean() == pytest.approx(exact.finish.mean(), rel=0.03)
    for answer in (exact, close):
        assert answer.makespan >= answer.bound * (1 - 1e-9)


@settings(max_examples=60)
@given(cases(), st.floats(0, 0.5))
def test_never_below_the_wire(case, tolerance: float) -> None:  # type: ignore[no-untyped-def]
    paths, capacity, _, size, start = case
    answer = flow_times(paths, size, capacity, start=start, tolerance=tolerance)
    assert answer.makespan >= answer.bound * (1 - 1e-9)
    alone = size / isolated_rates(paths, capacity)
    assert (answer.finish >= start + alone * (1 - 1e-9)).all()


@settings(max_examples=60)
@given(cases())
def test_no_link_is_overloaded_and_everyone_has_a_full_one(case) -> None:  # type: ignore[no-untyped-def]
    paths, capacity, weight, _, _ = case
    rates = fair_rates(paths, capacity, weight)
    real = np.where(np.isfinite(rates), rates, 0.0)
    use = amounts(paths, len(capacity))
    load = real @ use
    assert (load <= capacity * (1 + 1e-9)).all()
    for i in np.flatnonzero(np.isfinite(rates)):
        full = [r for r in np.flatnonzero(use[i]) if load[r] >= capacity[r] * (1 - 1e-9)]
        # On one of its full links nobody has more for its weight.
        assert any(
            (real[use[:, r] > 0] / weight[use[:, r] > 0] <= rates[i] / weight[i] * (1 + 1e-9)).all() for r in full
        )


def test_very_different_weights_stay_exact() -> None:
    paths = np.array([[0, -1], [0, 1], [-1, 1], [-1, 1]])
    first = 1 / (1e7 + 1)
    np.testing.assert_allclose(
        fair_rates(paths, [1.0, 1.0], [1e7, 1.0, 1e-3, 1e-3]),
        [1 - first, first, (1 - first) / 2, (1 - first) / 2],
        rtol=1e-9,
    )


def test_nothing_and_nonsense() -> None:
    assert fair_rates(np.zeros((0, 2), dtype=int), [1.0]).shape == (0,)
    assert flow_times(np.zeros((0, 2), dtype=int), 1.0, [1.0]).makespan == 0
    assert flow_times([[-1, -1]], 5.0, [1.0], start=3.0).finish.tolist() == [3.0]
    for arguments in [([[1]], [1.0]), ([[-2]], [1.0]), ([[0]], [0.0]), ([[0]], [1.0], [0.0]), ([[0]], [np.inf])]:
        with pytest.raises(ValueError, match=r"fit|above 0"):
            fair_rates(*arguments)
    for extra in ({"sizes": -1.0}, {"start": -1.0}, {"tolerance": -1.0}, {"sizes": np.nan}):
        with pytest.raises(ValueError, match="0 or more"):
            flow_times(**{"paths": [[0]], "sizes": 1.0, "capacity": [1.0], **extra})
