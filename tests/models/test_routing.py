"""Routing traces: what is one, files of them, and their statistics against plain loops."""

from __future__ import annotations

import zipfile
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from commlens import InputError
from commlens.models.routing import statistics
from commlens.models.routing.trace import MOST, RoutingTrace
from commlens.models.routing.trace_file import _from_frame, load_trace, save_trace, trace_names


def random_trace(tokens, layers, count, k, seed=0, gates=False):
    generator = np.random.default_rng(seed)
    experts = generator.random((tokens, layers, count)).argsort(axis=-1)[..., :k]
    weights = np.sort(generator.random((tokens, layers, k)), axis=-1)[..., ::-1] if gates else None
    return RoutingTrace(experts, count, weights)


@st.composite
def traces(draw):
    count = draw(st.integers(1, 7))
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 4)), count, draw(st.integers(1, count))
    trace = random_trace(*shape, seed=draw(st.integers(0, 99)))
    gates = draw(st.none() | arrays.arrays(np.float32, trace.experts.shape, elements=st.floats(-9, 9, width=32)))
    numbers = draw(st.none() | st.just(tuple(range(3, 3 + 2 * shape[1], 2))))
    return RoutingTrace(trace.experts, count, gates, draw(st.text("añ µ", max_size=5)), numbers)


def same(one, other):
    assert np.array_equal(one.experts, other.experts)
    assert (one.gates is None) == (other.gates is None)
    if one.gates is not None:
        assert np.array_equal(one.gates, other.gates)
    assert (one.count, one.layer_numbers) == (other.count, other.layer_numbers)


def test_a_trace_has_a_shape_and_cannot_be_changed():
    trace = RoutingTrace([[[1, 0], [2, 3]]], 4, source="here")
    assert (trace.tokens, trace.layers, trace.k, trace.count) == (1, 2, 2, 4)
    assert trace.experts.dtype == np.int32
    assert trace.first.tolist() == [[1, 2]]
    assert trace.describe() == "1 tokens, 2 layers, 2 of 4 experts: here"
    with pytest.raises(ValueError, match="read-only"):
        trace.experts[0] = 0


def test_the_largest_gate_comes_first():
    trace = RoutingTrace([[[1, 0, 2]]], 4, [[[0.2, 0.5, 0.3]]])
    assert trace.experts.tolist() == [[[0, 2, 1]]]
    assert trace.gates is not None
    assert trace.gates.tolist() == [[[0.5, pytest.approx(0.3), pytest.approx(0.2)]]]


GOOD = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]], [[0, 2], [1, 3]]])


@pytest.mark.parametrize(
    ("experts", "options", "said"),
    [
        (np.where(GOOD == 3, 4, GOOD), {}, "token 0, layer 1: expert 4 (legal: 0 to 3)"),
        (GOOD - 1, {}, "token 0, layer 0: expert -1 (legal: 0 to 3)"),
        (GOOD + 2**40, {}, f"expert {2**40} (legal: 0 to 3)"),
        ([[[0, 1], [1, 2]], [[2, 1], [3, 3]]], {}, "token 1, layer 1: [3, 3] names an expert twice"),
        (GOOD[0], {}, "2 dimensions (legal: 3"),
        (GOOD[:0], {}, "no entry in shape (0, 2, 2)"),
        ([[[0, 1, 2]]], {"count": 2}, "3 slots among 2 experts (legal: 1 to 2)"),
        ([[[0, 1], [1]]], {}, "unlike numbers of slots"),
        (GOOD.astype(float), {}, "values of type float64 (legal: whole numbers)"),
        (GOOD, {"count": 0}, f"count: 0 (legal: a whole number of experts, 1 to {MOST})"),
        (GOOD, {"count": 4.0}, "count: 4.0 (legal:"),
        (GOOD, {"count": True}, "count: True (legal:"),
        (GOOD, {"gates": np.ones((3, 2, 1))}, "gates: shape (3, 2, 1) (legal: (3, 2, 2)"),
        (GOOD, {"gates": np.where(GOOD == 3, np.nan, 1)}, "gates: token 0, layer 1: nan (legal: finite numbers)"),
        (GOOD, {"gates": GOOD.astype(str)}, "gates: are not numbers"),
        (GOOD, {"source": 3}, "source: 3 (legal: text)"),
        (GOOD, {"layer_numbers": (2, 2)}, "layer_numbers: [2, 2] (legal: 2 whole numbers that grow"),
        (GOOD, {"layer_numbers": (1, 2, 3)}, "layer_numbers: [1, 2, 3]"),
    ],
)
def test_what_is_no_trace_is_one_line(experts, options, said):
    with pytest.raises(InputError) as caught:
        RoutingTrace(experts, **{"count": 4, **options})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# Files


@settings(max_examples=40)
@given(trace=traces())
def test_npz_keeps_a_trace(trace, tmp_path_factory):
    file = tmp_path_factory.mktemp("npz") / "trace.NPZ"
    save_trace(trace, file)
    found = load_trace(file)
    same(found, trace)
    assert found.source == (trace.source or str(file))


@pytest.fixture
def parquet(monkeypatch):
    """Parquet without an engine: frames by the name of their file."""
    held = {}

    def write(frame, path, index):
        assert not index
        path.write_bytes(b"PAR1")
        held[path] = frame

    monkeypatch.setattr(pd.DataFrame, "to_parquet", write)
    monkeypatch.setattr(pd, "read_parquet", lambda path: held[path])
    return held


def test_parquet_keeps_a_trace(parquet, tmp_path):
    file = tmp_path / "trace.parquet"
    for seed, (gates, numbers) in enumerate(product((False, True), (None, (3, 4, 7)))):
        drawn = random_trace(5, 3, 6, 2, seed, gates)
        trace = RoutingTrace(drawn.experts, 6, drawn.gates, "mine", numbers)
        save_trace(trace, file)
        parquet[file] = parquet[file].sample(frac=1, random_state=seed)  # rows in any order
        same(load_trace(file), trace)
        assert load_trace(file).source == "mine"
        bare = parquet[file].drop(columns=["num_experts", "source"])
        parquet[file] = bare
        assert load_trace(file).count == trace.experts.max() + 1
        assert load_trace(file, count=9).count == 9


def test_real_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    trace = random_trace(50, 3, 6, 2, 1, gates=True)
    save_trace(trace, tmp_path / "trace.parquet")
    same(load_trace(tmp_path / "trace.parquet"), trace)


def long(rows, **more):
    return pd.DataFrame(rows, columns=["token", "layer", "slot", "expert"]).assign(**more)


ROWS = [(t, layer, s, (t + layer + s) % 4) for t in (7, 9) for layer in (3, 5) for s in (0, 1)]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (long(ROWS[:-1]), "token 9, layer 5: 1 slots, others have 2"),
        (long(ROWS[:4] + ROWS[6:]), "token 9, layer 3: 0 slots, others have 2"),
        (long(ROWS[:-2]), "token 9, layer 5: 0 slots, others have 2"),
        (long([*ROWS[:-1], (9, 5, 2, 1)]), "token 9, layer 5: slot 2 (legal: 0 to 1, each once)"),
        (long([*ROWS[:-1], (9, 5, 0, 1)]), "token 9, layer 5: slot 0 (legal: 0 to 1, each once)"),
        (long(ROWS[:0]).astype(int), "no row"),
        (long(ROWS).astype({"expert": float}), "column expert: values of type float64"),
        (long(ROWS).drop(columns="slot"), "no column slot among token, layer, expert"),
        (long(ROWS, num_experts=[4] * 7 + [8]), "num_experts: 4 and 8"),
    ],
)
def test_long_form_that_is_no_trace(frame, said):
    with pytest.raises(InputError) as caught:
        _from_frame(frame)
    assert said in str(caught.value)


def test_parquet_without_an_engine_or_parquet(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ImportError("Unable to find a usable engine; tried using: 'pyarrow', 'fastparquet'.\nmore")

    file = tmp_path / "trace.parquet"
    file.write_bytes(b"nothing")
    for name, call in (("read_parquet", lambda: load_trace(file)), ("to_parquet", lambda: save_trace(TRACE, file))):
        monkeypatch.setattr(pd if name == "read_parquet" else pd.DataFrame, name, missing)
        with pytest.raises(InputError, match=r"is installed \(legal: \.npz, or pip install pyarrow\)"):
            call()

    def broken(_):
        raise RuntimeError("magic bytes\nnot found")

    monkeypatch.setattr(pd, "read_parquet", broken)
    with pytest.raises(InputError, match="is not Parquet: magic bytes not found"):
        load_trace(file)


TRACE = RoutingTrace(GOOD, 4)


def stored(file, **held):
    np.savez(file, **held)
    return file


def test_npz_that_is_none(tmp_path):
    file = tmp_path / "trace.npz"
    whole = {"experts": GOOD, "num_experts": 4}
    cases = [
        (whole | {"experts": GOOD + 1}, "token 0, layer 1: expert 4 (legal: 0 to 3)"),
        (whole | {"experts": GOOD * 1.0}, "values of type float64"),
        (whole | {"experts": np.array([[1], 2], dtype=object)}, "array experts cannot be read: Object arrays"),
        (whole | {"num_experts": 4.0}, "num_experts: float64 of shape ()"),
        (whole | {"num_experts": [4]}, "num_experts: int64 of shape (1,)"),
        (whole | {"source": 3}, "source: int64"),
        ({"experts": GOOD}, "no array num_experts among experts"),
        ({"num_experts": 4, "expert": GOOD}, "no array experts among num_experts, expert"),
    ]
    for held, said in cases:
        with pytest.raises(InputError) as caught:
            load_trace(stored(file, **held))
        assert str(caught.value).startswith(f"{file}: ")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_files_that_are_broken(tmp_path):
    file = stored(tmp_path / "trace.npz", experts=GOOD, num_experts=4)
    data = file.read_bytes()
    for bad in (b"", b"not a zip at all", data[: len(data) // 2], data[:200] + b"\0\1\2\3" * 40 + data[360:]):
        file.write_bytes(bad)
        with pytest.raises(InputError) as caught:
            load_trace(file)
        assert "\n" not in str(caught.value)
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (900000000, 900, 9), }"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("experts.npy", header.ljust(127) + b"\n" + b"\0" * 64)
        archive.writestr("num_experts.npy", b"")
    with pytest.raises(InputError, match="array experts cannot be read"):
        load_trace(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "hello")
    with pytest.raises(InputError, match="no array experts among README"):
        load_trace(file)


def test_a_file_that_unpacks_to_too_much(tmp_path, monkeypatch):
    file = stored(tmp_path / "trace.npz", experts=GOOD, num_experts=4)
    monkeypatch.setattr("commlens.models.routing.trace_file._LIMIT", 300)
    with pytest.raises(InputError, match="bytes"):
        load_trace(file)


def test_names_and_places_that_are_none(tmp_path):
    for path, said in (
        ("stdlib-mo", "did you mean stdlib-moe"),
        (tmp_path / "trace.csv", "legal: "),
        (tmp_path / "none.npz", "cannot be read: No such file"),
        ("zero\0.npz", "is not the name of a file"),
    ):
        with pytest.raises(InputError, match=said):
            load_trace(path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        load_trace(tmp_path / "folder.npz")
    with pytest.raises(InputError, match="cannot be written"):
        save_trace(TRACE, tmp_path / "folder.npz")
    with pytest.raises(InputError, match=r"a trace in a \.csv file"):
        save_trace(TRACE, tmp_path / "trace.csv")


def test_shipped_traces_are_traces():
    assert trace_names() == ["stdlib-moe"]
    for name in trace_names():
        trace = load_trace(name)
        assert trace.source
        assert trace.gates is not None


# Statistics


@settings(max_examples=30)
@given(trace=traces())
def test_counts_are_those_of_loops(trace):
    size, k = trace.count, trace.k
    load = np.zeros((trace.layers, size))
    first = np.zeros((trace.layers - 1, size, size))
    every = np.zeros_like(first)
    for token in trace.experts.tolist():
        for layer, chosen in enumerate(token):
            for i in chosen:
                load[layer, i] += 1 / (trace.tokens * k)
            if layer + 1 < trace.layers:
                first[layer, chosen[0], token[layer + 1][0]] += 1
                for i, j in product(chosen, token[layer + 1]):
                    every[layer, i, j] += 1 / k**2
    np.testing.assert_allclose(statistics.loads(trace), load)
    np.testing.assert_array_equal(statistics.pair_counts(trace), first)
    np.testing.assert_allclose(statistics.pair_counts(trace, "all"), every)
    rows = statistics.affinity(trace).sum(axis=-1)
    np.testing.assert_allclose(rows, (first.sum(axis=-1) > 0) * 1.0)


@settings(max_examples=30)
@given(trace=traces(), seed=st.integers(0, 9))
def test_places_are_those_of_loops(trace, seed):
    devices, nodes = 4, 2
    device = np.random.default_rng(seed).integers(0, devices, (trace.layers, trace.count))
    k = trace.k
    moves, copies, stay = np.zeros(2), np.zeros(2), np.zeros((2, 2))
    busy = np.zeros((trace.layers, devices))
    for token in trace.experts.tolist():
        for layer, chosen in enumerate(token):
            for unit, size in enumerate((1, devices // nodes)):
                units = {int(device[layer, i]) // size for i in chosen}
                copies[unit] += len(units)
                if layer:
                    before = int(device[layer - 1, token[layer - 1][0]]) // size
                    moves[unit] += int(device[layer, chosen[0]]) // size != before
                    stay[unit] += (before in units), len(units)
            for i in chosen:
                busy[layer, device[layer, i]] += 1
    found = statistics.crossings(trace, device, nodes, devices)
    np.testing.assert_allclose(found, moves / trace.tokens)
    reach = statistics.reach(trace, device, devices, nodes)
    np.testing.assert_allclose(reach[:2], copies / (trace.tokens * trace.layers))
    assert reach[2:4] == (1 / devices, 1 / nodes)
    np.testing.assert_allclose(reach[4:], [a / b if b else 0 for a, b in stay])
    np.testing.assert_allclose(statistics.imbalance(trace, device, devices), busy.max(axis=1) / (trace.tokens * k / 4))
    # All slots: by the counts of pairs.
    apart = device[:-1, :, None] != device[1:, None, :]
    every = (statistics.pair_counts(trace, "all") * apart).sum() / trace.tokens
    assert statistics.crossings(trace, device, devices=devices, slots="all").devices == pytest.approx(every)


@settings(max_examples=30)
@given(trace=traces(), capacity=st.sampled_from([0.3, 1, 1.25, 9]), batch=st.none() | st.integers(1, 7))
def test_dropped_is_that_of_a_loop(trace, capacity, batch):
    lost = 0
    size = min(batch or trace.tokens, trace.tokens)
    for begin in range(0, trace.tokens, size):
        some = trace.experts[begin : begin + size]
        room = int(np.ceil(round(capacity * len(some) * trace.k / trace.count, 9)))
        for layer in range(trace.layers):
            taken = [0] * trace.count
            for i in some[:, layer].ravel().tolist():
                lost += taken[i] >= room
                taken[i] += 1
    assert statistics.dropped(trace, capacity, batch) == pytest.approx(lost / trace.experts.size)


def test_affinity_of_laws_known():
    # A fixed partner each: the next expert is known, and placed with it no token crosses.
    first = np.arange(800) % 8
    certain = RoutingTrace(np.stack([first, (3 * first + 1) % 8], axis=1)[:, :, None], 8)
    found = statistics.affinity_by_layer(certain)
    assert found.largest.tolist() == [1]
    assert found.markov.tolist() == [pytest.approx(1)]
    assert found.information.tolist() == [pytest.approx(3, abs=0.01)]
    assert found.normalised.tolist() == [pytest.approx(1, abs=0.01)]
    # None: whatever is seen is chance.
    found = statistics.affinity_by_layer(random_trace(20_000, 2, 8, 2))
    assert found.information[0] < 1e-3
    assert found.markov[0] < 0.02
    # ExFlow's model: a partner with probability a, else uniform; best placed on 8 devices p = a + (1 - a) / 8 stay.
    generator = np.random.default_rng(1)
    follow = generator.random(40_000) < 0.3
    first = generator.integers(0, 8, 40_000)
    second = np.where(follow, (3 * first + 1) % 8, generator.integers(0, 8, 40_000))
    trace = RoutingTrace(np.stack([first, second], axis=1)[:, :, None], 8)
    assert statistics.affinity_by_layer(trace).markov[0] == pytest.approx(0.3, abs=0.01)
    device = np.stack([(3 * np.arange(8) + 1) % 8, np.arange(8)])
    assert 1 - statistics.crossings(trace, device).devices == pytest.approx(0.3 + 0.7 / 8, abs=0.01)


def test_one_layer_has_no_boundary():
    trace = random_trace(10, 1, 4, 2)
    assert statistics.pair_counts(trace).shape == (0, 4, 4)
    assert statistics.affinity_by_layer(trace).markov.shape == (0,)
    assert statistics.crossings(trace, np.zeros((1, 4), dtype=int)) == (0, 0)
    assert statistics.reach(trace, np.zeros((1, 4), dtype=int)).followed == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: statistics.crossings(t, np.zeros((2, 3), int)), r"legal: whole numbers of shape \(2, 4\)"),
        (lambda t: statistics.crossings(t, np.zeros((2, 4))), "float64"),
        (lambda t: statistics.reach(t, np.full((2, 4), 5), 4), r"device: 5 \(legal: 0 to 3\)"),
        (lambda t: statistics.reach(t, np.full((2, 4), -1), 4), r"device: -1 \(legal: 0 to 3\)"),
        (lambda t: statistics.crossings(t, np.full((2, 4), 2), 2), "nodes: 2 for 3 devices"),
        (lambda t: statistics.loads(t, "some"), r"slots: 'some' \(legal: first, all\)"),
        (lambda t: statistics.dropped(t, 0), "capacity: 0"),
        (lambda t: statistics.dropped(t, 1, 0), "batch: 0"),
    ],
)
def test_statistics_refuse(call, said):
    with pytest.raises(InputError, match=said):
        call(TRACE)
