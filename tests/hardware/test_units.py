"""Quantities with units, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import InputError, units

PARSERS = {
    units.parse_size: units.SIZES, units.parse_rate: units.RATES, units.parse_time: units.TIMES,
    units.parse_flops: units.FLOPS, units.parse_frequency: units.FREQUENCIES,
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), [
    ("80 GiB", 80 * 2**30), ("80GB", 80e9), ("1.5 kB", 1500), ("7 B", 7), ("3", 3), (4.5, 4.5), ("1e3 MB", 1e9),
])  # fmt: skip
def test_sizes(text, value):
    assert units.parse_size(text) == value


def test_rates_in_bits_and_bytes():
    assert units.parse_rate("400 Gbit/s") == 50e9
    assert units.parse_rate("3.35 TB/s") == 3.35e12
    assert units.parse_rate("16 GiB/s") == 16 * 2**30


def test_the_rest():
    assert units.parse_time("1.5 us") == pytest.approx(1.5e-6)
    assert units.parse_flops("989.4 TFLOP/s") == pytest.approx(989.4e12)
    assert units.parse_frequency("1.4 GHz") == 1.4e9


@pytest.mark.parametrize("text", ["80 GiBs", "80 gib", "GiB", "", "8 0 GB", "1e999 GB", "nan", True, None, [1], "-"])
def test_nonsense_is_one_line_that_shows_what_is_legal(text):
    with pytest.raises(InputError) as caught:
        units.parse_size(text, "memory")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("memory: ")
    assert "80 GiB" in str(caught.value)


@pytest.mark.parametrize("value", [10**400, "9" * 5000, "1e400 B", float("inf"), float("nan")])
def test_what_no_float_holds_is_refused_in_a_short_line(value):
    with pytest.raises(InputError, match=r"not finite|not a quantity") as caught:
        units.parse_size(value, "memory")
    assert len(str(caught.value)) < 200


@given(st.sampled_from(list(PARSERS)), st.floats(1e-3, 1e6), st.data())
def test_every_unit_scales(parse, number, data):
    unit, factor = data.draw(st.sampled_from(sorted(PARSERS[parse].items())))
    assert parse(f"{number!r} {unit}") == pytest.approx(number * factor)
    assert parse(f"{number!r}{unit}") == pytest.approx(number * factor)


@given(st.floats(1e-9, 1e16))
def test_formatted_sizes_parse_back_to_three_digits(value):
    assert units.parse_size(units.format_size(value)) == pytest.approx(value, rel=6e-3, abs=1e-12)


@given(st.floats(1e-9, 1e6))
def test_formatted_times_parse_back_to_three_digits(value):
    assert units.parse_time(units.format_time(value)) == pytest.approx(value, rel=6e-3)
