"""Intervals against measurements: on made-up rows of a known spread always, on the measured tables where they are."""

import os

import numpy as np
import pytest

from commlens.hardware import load_profile
from commlens.hardware.profile import LARGE, MIB, SMALL
from commlens.models.estimators import KernelProfile
from commlens.models.software import load_software
from commlens.models.spread import Z, spread
from commlens.models.uncertainty import preset
from commlens.validation import fit_errors, intervals, sizes
from commlens.validation.claims import MEASURED
from commlens.validation.intervals import Held

FOLDER = os.environ.get(MEASURED, "")
needs_tables = pytest.mark.skipif(
    not os.path.isfile(os.path.join(FOLDER, "collectives_measured.csv")), reason=f"{MEASURED} names no measured tables"
)
KNOWN = {("a", "x"): (0.05, 200), ("b", "x"): (0.1, 40), ("c", "x"): (0.3, 12), ("d", "x"): (0.1, 0)}


@pytest.fixture(scope="module")
def made_up():
    """Calibration rows of sorts with known spreads, and 4,000 more of each that were held out."""
    generator = np.random.default_rng(7)
    seen = {sort: sd * generator.standard_normal(rows) for sort, (sd, rows) in KNOWN.items() if rows}
    rows = []
    for sort, (sd, _) in KNOWN.items():
        half = Z * fit_errors.pooled(seen, sort)
        rows += [Held("made up", sort[0], sd * z, -half, half, 0.2) for z in generator.standard_normal(4000).tolist()]
    return seen, intervals.table(rows).set_index("group")


def test_nine_in_ten_rows_of_a_known_spread_lie_inside(made_up):
    _, table = made_up
    assert 0.85 < table.loc["all", "inside"] < 0.97
    assert 0.86 < table.loc["a", "inside"] < 0.94
    assert 0.86 < table.loc["b", "inside"] < 0.97
    assert table.loc["d", "inside"] > 0.95  # no rows of its own: as wide as the others go


def test_widths_are_those_of_the_spread_where_there_are_rows(made_up):
    seen, table = made_up
    assert table.loc["a", "width"] == pytest.approx(2 * Z * 0.05, rel=0.25)
    assert fit_errors.pooled(seen, ("a", "x")) < fit_errors.pooled(seen, ("b", "x"))
    # Another second name is another world.
    assert fit_errors.pooled({**seen, ("e", "y"): np.full(99, 5.0)}, ("b", "x")) == fit_errors.pooled(seen, ("b", "x"))


def test_a_table_by_hand():
    rows = [
        Held("of", "g", 0.05, -0.1, 0.2, 0.04),
        Held("of", "g", -0.2, -0.1, 0.2, 0.04),
        Held("of", "h", 0.0, -0.1, 0.1, 0.04),
    ]
    found = intervals.table(rows)
    assert list(found["group"]) == ["g", "h", "all"]
    assert found["inside"].tolist() == pytest.approx([0.5, 1, 2 / 3])
    assert found["width"].tolist() == pytest.approx([0.3, 0.2, 0.3])
    assert found["score"].tolist() == pytest.approx([0.3 + 20 * 0.1 / 2, 0.2, (0.3 + 2.3 + 0.2) / 3])
    assert found["inside, one width"].tolist() == pytest.approx([0, 1, 1 / 3])
    assert found["its score"].iloc[1] == pytest.approx(0.08)


def test_lines_of_files_are_set_where_they_belong():
    text = "name: x\nerror: 0.1\nsource:\n  name: here\n"
    once = fit_errors.with_line(text, "spread", "spread: 1")
    assert once == "name: x\nspread: 1\nerror: 0.1\nsource:\n  name: here\n"
    assert fit_errors.with_line(once, "spread", "spread: 2") == once.replace("spread: 1", "spread: 2")
    inner = fit_errors.with_line(once, "  spread", "  spread: so", above="source:")
    assert inner == once.replace("source:\n", "source:\n  spread: so\n")
    assert fit_errors.with_line("a: 1", "spread", "spread: 1") == "a: 1\nspread: 1\n"


def test_shipped_spreads_are_there_and_sized_as_the_errors_are_told_apart():
    assert sizes.SIZE_CLASSES == (LARGE, SMALL)
    assert sizes.MIB == MIB
    for name in fit_errors.FAMILIES:
        profile = load_profile(name)
        assert set(profile.spread) == {LARGE, SMALL}
        assert profile.spread_at(MIB, 9.0) == profile.spread[LARGE]
        assert profile.spread_at(MIB - 1, 9.0) == profile.spread[SMALL]
    assert load_profile("pcie4-messages").spread_at(MIB, 9.0) == 9.0
    assert set(preset()) == {"links", "elsewhere", "profiles", "techniques"}
    for path in fit_errors.STACKS.glob("*.yaml"):
        stack = load_software(path.stem)
        assert (set(stack.spread) == {"dense", "mixture"}) == bool(stack.calibrated_on), path.stem


@needs_tables
def test_left_out_collectives_lie_inside():
    table = intervals.table(intervals.collectives()).set_index("group")
    assert 0.85 < table.loc["all", "inside"] < 0.95
    many = table[(table["rows"] >= 30)]
    assert many["inside"].between(0.82, 0.99).all()
    assert table.loc["all", "width"] < 0.3
    assert table.loc["all", "score"] < table.loc["all", "its score"]


@needs_tables
def test_committed_spreads_of_links_are_what_the_rows_give():
    errors = fit_errors.link_errors()
    for name, values in fit_errors.link_spreads(errors).items():
        assert load_profile(name).spread == pytest.approx(values, abs=6e-5)
    assert preset()["links"] == pytest.approx(spread(fit_errors.network_errors(), list(errors.values())), abs=6e-5)


@needs_tables
def test_committed_spreads_of_kernels_elsewhere_are_what_the_rows_give():
    errors = fit_errors.moved_errors(fit_errors.kernel_rows(FOLDER))
    names = {device: name.removesuffix(".json") for device, name in fit_errors.SHIPPED.items()}
    for (device, kind), off in errors.items():
        score = KernelProfile.load(names[device]).scores[kind]
        assert score["elsewhere"] == pytest.approx(spread(off), abs=6e-5)
        assert score["elsewhere"] > score["spread"]
    assert preset()["elsewhere"] == pytest.approx(spread(np.concatenate([*errors.values()])), abs=6e-5)


def test_committed_spread_of_techniques_is_what_the_pairs_give():
    errors = fit_errors.technique_errors()
    assert len(errors) == 20
    assert preset()["techniques"] == pytest.approx(spread(errors), abs=6e-5)


@needs_tables
@pytest.mark.slow
def test_left_out_kernels_lie_inside():
    table = intervals.table(intervals.kernels(FOLDER)).set_index("group")
    assert table["inside"].between(0.85, 0.95).all()
    assert table.loc["all", "score"] < table.loc["all", "its score"]


@needs_tables
@pytest.mark.slow
def test_left_out_steps_lie_inside_and_spreads_of_stacks_are_what_the_rows_give():
    seen = fit_errors.stack_errors()
    for name, values in fit_errors.stack_spreads(seen).items():
        assert load_software(name).spread == pytest.approx(values, abs=6e-5)
    table = intervals.table(intervals.steps(seen)).set_index("group")
    assert 0.85 < table.loc["all", "inside"] < 0.95
    assert table[table["rows"] >= 30]["inside"].between(0.8, 0.97).all()
    assert table.loc["all", "score"] < table.loc["all", "its score"]


@needs_tables
@pytest.mark.slow
def test_whole_runs_lie_inside_and_paired_speed_ups_are_narrower_than_unpaired_ones():
    table = intervals.table(intervals.runs(fit_errors.stack_errors())).set_index(["of", "group"])
    assert 0.85 <= table.loc[(intervals.RUNS, "all"), "inside"] <= 0.95
    gains = table.loc[intervals.SPEEDUPS]
    # Fewer than nine in ten: six of Ladder residual's ten speed-ups are smaller than the interval has them.
    assert gains.loc["all", "inside"] >= 0.75
    assert (gains.drop(["ladder_residual", "all"])["inside"] >= 0.9).all()
    assert gains.loc["all", "width"] < gains.loc["all", "one width"] / 3
    assert gains.loc["all", "score"] < gains.loc["all", "its score"]
