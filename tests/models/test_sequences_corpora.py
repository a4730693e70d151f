"""Corpora, files of lengths, and batches drawn from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens import InputError
from commlens.models.sequences.batch import LONGEST, Batch, batch_of, fitted
from commlens.models.sequences.corpora import Corpus, corpus_names, load_corpus
from commlens.models.sequences.lengths_file import read_lengths
from commlens.validation.fit_corpora import Target, bins, density, measured


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_shipped_corpora_say_where_they_come_from():
    assert corpus_names() == ["byted-like", "commoncrawl-like", "github-like", "wikipedia"]
    for name in corpus_names():
        corpus = load_corpus(name)
        assert corpus.source
        assert corpus.kind == ("binned" if name == "wikipedia" else "fitted")
        assert len(corpus.edges) == len(corpus.weights) + 1
        assert (np.diff(corpus.edges) > 0).all()
        assert min(corpus.weights) >= 0


def test_wikipedia_keeps_mean_and_percentiles_to_one_percent():
    for target in load_corpus("wikipedia").targets:
        assert target["here"] == pytest.approx(target["published"], rel=0.01), target["what"]


def test_wikipedia_drawn_is_as_published():
    # The notes of the million lengths: share of samples by bin, 8K means 8,192.
    lengths = load_corpus("wikipedia").sample(generator(), 1_000_000)
    for low, high, share in ((1, 512, 62.69), (513, 1024, 16.12), (1025, 2048, 10.84), (4097, 8192, 2.80)):
        assert 100 * ((lengths >= low) & (lengths <= high)).mean() == pytest.approx(share, rel=0.015)
    assert (lengths <= 8192).mean() > 0.96


@pytest.mark.parametrize(
    ("name", "tolerance"), [("github-like", 0.001), ("byted-like", 0.09), ("commoncrawl-like", 0.001)]
)
def test_fitted_corpora_meet_their_targets(name, tolerance):
    corpus = load_corpus(name)
    for target in corpus.targets:
        assert target["here"] == pytest.approx(target["published"], rel=tolerance), target["what"]


def test_targets_are_what_a_draw_has():
    lengths = load_corpus("byted-like").sample(generator(), 2_000_000)
    long = lengths >= 128 * 1024
    here = {target["what"]: target["here"] for target in load_corpus("byted-like").targets}
    assert long.mean() == pytest.approx(here["share of samples in sequences of at least 131072 tokens"], rel=0.03)
    share = lengths[long].sum() / lengths.sum()
    assert share == pytest.approx(here["share of tokens in sequences of at least 131072 tokens"], rel=0.03)


def test_a_joint_is_smooth_and_the_tail_a_power_law():
    x = np.exp(np.linspace(2, 12, 2001))
    log = np.log(density(x, 6.0, 1.5, 8.0))
    slope = np.gradient(log, np.log(x))
    assert np.abs(np.diff(slope)).max() < 0.01
    assert slope[-2] == pytest.approx(-(8.0 - 6.0) / 1.5**2, rel=1e-6)


def test_a_target_is_measured_by_hand():
    edges, weights = np.array([1.0, 3.0, 5.0]), np.array([3.0, 1.0])  # means 1.5 and 3.5
    assert measured(Target("samples", 3, np.inf, 0), edges, weights) == 0.25
    assert measured(Target("tokens", 3, np.inf, 0), edges, weights) == pytest.approx(3.5 / 8)
    assert measured(Target("mean", 0, 4, 0), edges, weights) == pytest.approx(2.0)
    assert bins(8).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_every_length_of_a_bin_is_drawn_alike():
    corpus = Corpus("x", "binned", "", (2, 4, 10), (1.0, 0.0))
    drawn = corpus.sample(generator(), 10_000)
    assert sorted(set(drawn.tolist())) == [2, 3]
    assert (drawn == 2).mean() == pytest.approx(0.5, abs=0.02)


def test_the_same_seed_is_the_same_batch():
    corpus = load_corpus("github-like")
    assert (corpus.batch(100, seed=3).lengths == corpus.batch(100, seed=3).lengths).all()
    assert (corpus.batch(100, seed=3).lengths != corpus.batch(100, seed=4).lengths).any()
    assert corpus.batch(4, seed=0).lengths.tolist() == [2851, 659, 113, 62]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 300),
    longest=st.sampled_from([None, 1024, 8192, 192_000]),
    multiple=st.sampled_from([1, 128]),
    over=st.sampled_from(["drop", "truncate"]),
)
def test_a_batch_has_what_was_asked_for(seed, count, longest, multiple, over):
    batch = load_corpus("byted-like").batch(count, seed=seed, max_length=longest, multiple=multiple, over=over)
    assert len(batch) == count
    assert (batch.lengths % multiple == 0).all()
    assert batch.lengths.min() >= 1
    assert longest is None or batch.longest <= longest
    assert batch.dropped == 0 or over == "drop"
    assert batch.truncated <= count


@pytest.mark.parametrize("tokens", [1, 5000, 3_000_000])
def test_tokens_are_reached_by_the_last_sequence(tokens):
    batch = load_corpus("byted-like").batch(None, tokens=tokens, seed=1)
    assert batch.tokens >= tokens > batch.tokens - batch.lengths[-1]


def test_rounding_comes_before_dropping():
    kept, beyond = fitted(np.array([100, 129, 250, 256, 257]), 256, "drop", 128)
    assert kept.tolist() == [128, 256, 256, 256]
    assert beyond == 1
    assert fitted(np.array([100, 300]), 256, "truncate", 128)[0].tolist() == [128, 256]


def test_a_batch_is_read_only_and_says_itself():
    batch = batch_of([1, 2, 6])
    with pytest.raises(ValueError, match="read-only"):
        batch.lengths[0] = 5
    assert (len(batch), batch.tokens, batch.longest) == (3, 9, 6)
    assert batch.share_above(2) == (pytest.approx(2 / 3), pytest.approx(8 / 9))
    assert "3 sequences, 9 tokens" in batch.describe()
    assert batch_of(batch) is batch
    assert np.asarray(batch, dtype=float).tolist() == [1.0, 2.0, 6.0]
    assert "2 dropped" in Batch(np.array([1]), "x", 0, 2).describe()


FILES = {
    "a.csv": "length\n5\n7\n",
    "b.csv": "document,length_tokens\nx,5\ny,7\n",
    "c.csv": "5\n\n7\n",
    "d.csv": "length_tokens,count\n5,1\n7,1\n",
    "e.tsv": "name\tlength\nx\t5\ny\t7\n",
    "f.jsonl": "5\n\n7\n",
    "g.jsonl": '{"id": 1, "length": 5}\n{"length": 7.0, "id": 2}\n',
    "h.txt": "5 7\n",
    "i.txt": "5,\n7\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_lengths(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    assert read_lengths(tmp_path / name).lengths.tolist() == [5, 7]


def test_counted_lengths_stand_for_as_many(tmp_path):
    (tmp_path / "a.csv").write_text("length,count\n5,3\n9,1\n")
    assert read_lengths(tmp_path / "a.csv").lengths.tolist() == [5, 5, 5, 9]


def test_a_column_may_be_named(tmp_path):
    (tmp_path / "a.csv").write_text("length,mine\n5,6\n")
    assert read_lengths(tmp_path / "a.csv", "mine").lengths.tolist() == [6]
    (tmp_path / "a.jsonl").write_text(json.dumps({"mine": 6, "length": 5}))
    assert read_lengths(tmp_path / "a.jsonl", "mine").lengths.tolist() == [6]


def test_parquet_by_whichever_reader_there_is(tmp_path, monkeypatch):
    import pandas as pd

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(pd, "read_parquet", lambda path: pd.DataFrame({"x": [1, 2], "tokens": [5, 7]}))
    assert read_lengths(tmp_path / "a.parquet").lengths.tolist() == [5, 7]
    monkeypatch.setattr(pd, "read_parquet", lambda path: pd.DataFrame({"tokens": [5.0, np.nan]}))
    with pytest.raises(InputError, match="row 2: nan"):
        read_lengths(tmp_path / "a.parquet")

    def none(path):
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", none)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read_lengths(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "length\n5\n0\n", r"a.csv: line 3: 0 \(legal: a whole number of tokens, 1 to"),
        ("a.csv", "length\n-5\n", "line 2: -5"),
        ("a.csv", "length\n5.5\n", "line 2: 5.5"),
        ("a.csv", "length\n5\nmany\n", "line 3: 'many' is not a number"),
        ("a.csv", "length\n5\n\n\ninf\n", "line 5: inf"),
        ("a.csv", f"length\n{LONGEST + 1}\n", f"line 2: {LONGEST + 1}"),
        ("a.csv", "length\n", "header alone"),
        ("a.csv", "", "is empty"),
        ("a.csv", "a,b\n1,2\n", "no column length"),
        ("a.csv", "a,length\n1\n", "line 2: 1 columns"),
        ("a.csv", "length,count\n5,0\n", "line 2: count: 0"),
        ("a.csv", "length,count\n5,999999999\n", "count: 999999999 sequences"),
        ("a.jsonl", '{"length": 5}\n{"length": true}\n', "line 2: True is not a number"),
        ("a.jsonl", '{"length": 5}\n[5]\n', r"line 2: \[5\] is not a number"),
        ("a.jsonl", "{", "line 1: is not JSON"),
        ("a.jsonl", '{"a": 1, "b": 2}\n', "line 1: no column"),
        ("a.txt", "5 6\n7 nan\n", "line 2: nan"),
        ("a.txt", "   \n", "is empty"),
        ("a.doc", "5", r"\.doc file \(legal: \.csv"),
        ("a.parquet", "5", "arquet"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=said) as problem:
        read_lengths(path)
    assert str(path) in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 0}, "batch: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"tokens": 0}, "tokens: 0"),
        ({"max_length": 0}, "max_length: 0"),
        ({"max_length": 8}, "next to none as short"),
        ({"max_length": 100, "multiple": 128}, r"max_length: 100 \(legal: 128 or more"),
        ({"max_length": 200, "multiple": 128, "over": "truncate"}, "not a multiple of 128"),
        ({"over": "dorp"}, r"over: 'dorp' \(legal: drop, truncate\); did you mean drop"),
    ],
)
def test_bad_draws_are_one_line(options, said):
    with pytest.raises(InputError, match=said):
        load_corpus("github-like").batch(**options)


def test_an_unknown_corpus_has_a_neighbour():
    with pytest.raises(InputError, match="did you mean wikipedia"):
        load_corpus("wikipedai")


def test_a_file_is_taken_whole_when_it_has_no_more(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(str(n) for n in range(1, 11)))
    file = read_lengths(tmp_path / "a.txt")
    assert file.batch(10).lengths.tolist() == list(range(1, 11))
    assert file.batch(None, max_length=4).lengths.tolist() == [1, 2, 3, 4]
    assert file.batch(None, max_length=4).dropped == 6
    drawn = file.batch(5, seed=0)
    assert len(drawn) == 5
    assert drawn.seed == 0
    (tmp_path / "b.txt").write_text("5")
    with pytest.raises(InputError, match=r"nothing as short \(legal: 5 or more"):
        read_lengths(tmp_path / "b.txt").batch(None, max_length=4)


@pytest.mark.parametrize("lengths", [[], [[1]], [0], ["x"], [1.5], [float("nan")]])
def test_bad_lists_are_one_line(lengths):
    with pytest.raises(InputError, match="legal: a whole number of tokens, 1 to"):
        batch_of(lengths)
