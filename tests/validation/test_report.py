"""One report over everything: what it says first, that every format says all of it, and what a page needs."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from commlens import validate
from commlens.cli import main
from commlens.hardware.errors import InputError
from commlens.validation import calibration, executed, figures, page, report, tables
from commlens.validation.blocks import Picture, Points, Section, Table
from commlens.validation.claims import MEASURED, Row

MISS = "because of <b>tags & pipes | in_it</b>"


def row(family, technique, claim, reported, predicted, metric="time [us]", **more):
    return Row(family, technique, claim, "a setting", metric, reported, predicted, "a source", **more)


def network():
    rng = np.random.default_rng(0)
    for i in range(12):
        time = 10.0 * 1.5**i
        split = "calibration" if i % 3 == 0 else "held out"
        yield row("network", "ring", f"N-{i}", time, time * rng.normal(1, 0.03), trivial=0.4 * time, split=split)
    yield row("network", "ring", "N-far", 10.0, 15.0, reason=MISS)
    yield row("network", "ring", "N-none", 10.0, None, reason="the machine is not described")
    yield row("network", "tree", "N-silent", 10.0, 7.0)
    yield row("network", "tree", "N-doubt", 10.0, 70.0, "time [us], doubtful rows", reason="printed wrongly")
    yield row("network", "tree", "N-zero", 0.0, 1.0, "gain [%]", reason="below what can be measured")


def moe():
    for i in range(5):
        yield row("moe", "layer", f"M-{i}", 1.0, float(i > 0), "right answer")
    yield row("moe", "layer", "M-one", 1.25, 1.31, "speed-up [x]")


def missing():
    raise LookupError("a_table.csv: set COMMLENS_MEASURED to the folder that holds it")
    yield


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr("commlens.validation.families", lambda: {"network": (network, missing), "moe": (moe,)})


@pytest.fixture
def frame(made_up):
    return validate()


REFERENCES = pd.DataFrame(
    {
        "technique": ["ring", "tree", "bound"],
        "what": ["a layer", "a layer", None],
        "ranks": pd.array([2, 4, None], dtype="Int64"),
        "output_error": [1e-16, 2e-16, np.nan],
        "gradient_error": [None, None, None],
        "executed_bytes": [{"all_reduce": 1024}, {"all_reduce": 1000}, None],
        "predicted_bytes": [{"all_reduce": 1024}, {"all_reduce": 1024}, None],
        "status": ["equal", "differs: bytes", "none"],
        "reason": ["", "", "it is a bound"],
    }
)


def test_what_is_missed_comes_first_then_errors_then_single_numbers(frame):
    shown = report.text(frame, REFERENCES)
    order = [
        "comparisons with published numbers",
        MISS,
        "the machine is not described",
        "printed wrongly",
        "no reason is known",
        "tree, a layer",
        "Skipped, as there is no such table",
        "Errors of predictions",
        "Claims of one number each",
    ]
    assert [shown.index(words) for words in order] == sorted(shown.index(words) for words in order)


def test_every_miss_is_listed_once(frame):
    listed = [block for block in report.missed(frame) if isinstance(block, Points)]
    heads = "\n".join(head for block in listed for head, _ in block.items)
    off = frame[frame["error"].isna() | (frame["error"].abs() > report.MISSED) | (frame["reason"] != "")]
    for claim in frame["claim"]:
        assert len(re.findall(rf"{claim}\b", heads)) == int(claim in set(off["claim"])), claim
    assert "N-far (+50%)" in heads


def test_counts_are_those_of_a_loop(frame):
    said = [int(number) for number in re.findall(r"\b(\d+)\b(?!%)", report.counts(frame))]
    errors = [r.error for r in [*network(), *moe()] if r.error is not None and "doubtful" not in r.metric]
    near, far = sum(abs(e) <= 0.10 for e in errors), sum(abs(e) > 0.15 for e in errors)
    assert said == [23, 1, 1, len(errors), near, far]


def test_summary_is_that_of_a_loop(frame):
    found = report.summary(frame).set_index(["technique", "metric", "split"])
    for (technique, metric, split), line in found.iterrows():
        mine = [r for r in [*network(), *moe()] if (r.technique, r.metric, r.split) == (technique, metric, split)]
        errors = np.array([r.error for r in mine if r.error is not None])
        assert line["rows"] == len(errors)
        assert line["mean"] == pytest.approx(np.abs(errors).mean())
        assert line["p90"] == pytest.approx(np.quantile(np.abs(errors), 0.9))
        assert line["bias"] == pytest.approx(errors.mean())
    assert found.loc[("ring", "time [us]", "calibration"), "trivial"] == pytest.approx(0.6)


def test_overview_compares_with_the_baseline_on_the_same_rows(frame):
    held = report.overview(frame).rows.set_index(["family", "split"]).loc[("network", "held out")]
    mine = [r for r in network() if r.split == "held out" and r.error is not None and "doubtful" not in r.metric]
    assert held["rows"] == len(mine)
    assert held["same rows"] == pytest.approx(np.mean([abs(r.error) for r in mine if r.trivial]))
    assert held["mean"] > 2 * held["same rows"]


def test_every_row_is_in_a_table(frame):
    found = list(report.body(frame))
    single = next(table.rows for table in found if table.title.startswith("Claims"))
    assert set(single["claim"]) == {"N-silent", "N-doubt", "M-one"}
    many = next(table.rows for table in found if table.title.startswith("Errors"))
    assert many["rows"].sum() + len(single) == frame["error"].notna().sum()


class Page(HTMLParser):
    """Text and addresses of a page; tags have to close in the order they open."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words, self.text = [], [], [], text
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_is_one_file_that_needs_nothing_else(frame, tmp_path):
    sections = report.sections(frame, REFERENCES)
    page.write_html(tmp_path / "r.html", sections)
    found = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    pictures = [address for address in found.addresses if not address.startswith("#")]
    assert len(pictures) == sum(isinstance(b, Picture) for s in sections for b in s.blocks) >= 3
    for address in pictures:
        kind, _, data = address.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    words = " ".join(found.words)
    for section in sections:
        assert section.title in words
    assert MISS in words
    assert "<b>" not in found.text
    assert "width=device-width" in found.text
    assert "@media print" in found.text
    assert not re.search(r"http|@import|url\(|<script", re.sub(r"base64,[^\"]*", "", found.text))


def test_a_page_says_what_the_text_says(frame):
    """Every miss, every error and every single number of the text is in both pages."""
    sections = report.sections(frame, REFERENCES)
    pages = [" ".join(Page(page.html(sections)).words), page.markdown(sections, lambda picture: "x.png")]
    pages[1] = re.sub(r"\\(.)", r"\1", pages[1])
    blocks = [block for section in sections for block in section.blocks]
    for shown in pages:
        for block in (block for block in blocks if isinstance(block, Points)):
            assert all(head in shown and said in shown for head, said in block.items)
        for block in (block for block in blocks if isinstance(block, Table)):
            assert all(value in shown for line in tables.shown(block.rows).rows for value in line)


def test_the_same_rows_give_the_same_page(frame):
    page.png.cache_clear()
    first = page.html(report.sections(frame))
    page.png.cache_clear()
    assert page.html(report.sections(frame)) == first


def test_markdown_has_its_figures_beside_it_and_its_tables_whole(frame, tmp_path):
    path = tmp_path / "my report.md"
    page.write_markdown(path, report.sections(frame, REFERENCES))
    shown = path.read_text(encoding="utf-8")
    named = re.findall(r"!\[.*?\]\(<(.*?)>\)", shown)
    assert sorted(named) == sorted(file.name for file in tmp_path.glob("*.png"))
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in named)
    for block in re.findall(r"(?:^\|.*\n)+", shown, flags=re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1, block


def test_figures_leave_out_what_a_logarithm_cannot_show(frame):
    found = {one.name: one for one in figures.pictures(frame[frame["family"] == "network"])}
    assert set(found) == {"network-1", "network-errors"}
    figure = found["network-1"].draw()
    marks = [one for one in figure.axes[0].collections if isinstance(one, PathCollection)]
    drawn = np.concatenate([one.get_offsets() for one in marks])
    rows = frame[(frame["family"] == "network") & frame["error"].notna() & (frame["reported"] > 0)]
    known = rows[["reported", "predicted"]].to_numpy()
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, known.tolist()))
    assert figure.axes[0].get_xscale() == "log"
    # Right answers are all 1 where they are drawn: no figure of its own.
    assert [one.name for one in figures.pictures(frame[frame["family"] == "moe"])] == ["moe-errors"]


def test_many_metrics_share_the_last_figure():
    rows = [row("network", "ring", f"N-{m}-{i}", 1.0 + i, 1.1 + i, f"metric {m}") for m in range(9) for i in range(4)]
    names = ["claim", "technique", "metric", "reported", "predicted", "error", "family", "split", "trivial"]
    frame = pd.DataFrame([{name: getattr(one, name) for name in names} for one in rows])
    frame["trivial_error"] = np.nan
    found = list(figures.pictures(frame))
    assert len(found) == figures.PANELS + 2
    assert "16 rows" in found[-2].alt


def test_calibration_is_what_the_profiles_hold():
    found = calibration.kernels().set_index(["device", "kernel"])
    from commlens.models.estimators.profile import MEASURED as FOLDER

    for file in FOLDER.glob("kernels-*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        for kind, kernel in data["kernels"].items():
            score = kernel["cross_validation"]
            if score:
                assert found.loc[(data["device"], kind), "cross-validated"] == score["mean"]
    assert (found["cross-validated"] < found[["nearest row", "datasheet"]].min(axis=1)).all()
    assert "nvlink4" in set(calibration.fabrics()["fabric"])


def test_references_that_differ_or_fail_are_said_first(frame):
    first = report.sections(frame, REFERENCES)[0]
    items = [item for block in first.blocks if isinstance(block, Points) for item in block.items]
    assert ("tree, a layer", "differs: bytes") in items
    assert "1 of 3 differ" in report.text(frame, REFERENCES)
    failed = report.sections(frame, "rank 1 of 2: exit code 1")
    assert "exit code 1" in str(failed[0].blocks)
    assert "--references" in report.text(frame)


def test_columns_stand_under_each_other():
    frame = pd.DataFrame({"technique": ["a", "long name"], "mean": [0.5, np.nan], "reported": [1234567.0, 2.0]})
    assert tables.grid(tables.shown(frame)).splitlines() == [
        "technique   mean   reported",
        "a          50.0%  1.235e+06",
        "long name      -          2",
    ]


def test_no_rows_at_all(monkeypatch):
    monkeypatch.setattr("commlens.validation.families", lambda: {"network": (missing,)})
    nothing = validate()
    assert "Nothing was predicted" in report.text(nothing)
    assert MEASURED in page.html(report.sections(nothing))
    assert page.html([Section("empty", [])]).count("<h2>") == 0


def run(capsys, *arguments):
    """Exit status and what was said."""
    status = 0
    try:
        main(["validate", *map(str, arguments)])
    except SystemExit as end:
        status = end.code or 0
    return status, capsys.readouterr()


def test_command_writes_every_format(made_up, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("commlens.validation.executed.run", lambda family: REFERENCES)
    files = [tmp_path / name for name in ("r.html", "r.md", "r.csv")]
    options = [word for pair in zip(("--html", "--markdown", "--csv"), files, strict=True) for word in pair]
    status, said = run(capsys, *options)
    assert (status, said.err) == (0, "")
    assert said.out.startswith("23 comparisons")
    assert all(file.stat().st_size > 500 for file in files)
    _, said = run(capsys, "--json", "--family", "moe")
    assert [one["claim"] for one in json.loads(said.out)] == ["M-0", "M-1", "M-2", "M-3", "M-4", "M-one"]
    _, said = run(capsys, "--json", "--references")
    both = json.loads(said.out)
    assert len(both["rows"]) == 23
    assert both["references"][0]["executed_bytes"] == {"all_reduce": 1024}


def test_bad_input_is_one_line_before_anything_runs(made_up, monkeypatch, tmp_path, capsys):
    def never(*arguments):
        raise AssertionError("ran")

    cases = [(("--family", "netwrk"), "did you mean network")]
    for option in ("--html", "--markdown", "--csv"):
        cases.append(((option, tmp_path), "is a folder"))
        cases.append(((option, tmp_path / "none" / "r.html"), "no folder"))
    for arguments, words in cases:
        if "--family" not in arguments:
            monkeypatch.setattr("commlens.validation.validate", never)
        else:
            monkeypatch.undo()
        status, said = run(capsys, *arguments)
        assert status == 2
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert words in said.err


def test_references_without_torch_are_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--references: torch .*legal: with pip install 'commlens\[torch\]'"):
        executed.run()


def test_a_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"--html: cannot write .*permission denied"):
        page.check_writable("--html", tmp_path / "r.html")
    page.check_writable("--html", None)
