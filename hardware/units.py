"""Quantities as people write them, to SI floats and back.

Sizes take decimal (kB, MB, GB, TB) and binary prefixes (KiB, MiB, GiB, TiB); rates are sizes or bits
per second; numbers without a unit are SI already.
"""

from __future__ import annotations

import math
import re

from .errors import InputError

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
SIZES = {f"{prefix}B": factor for prefix, factor in {**_DECIMAL, **_BINARY}.items()}
RATES = {
    **{f"{unit}/s": factor for unit, factor in SIZES.items()},
    **{f"{prefix}bit/s": factor / 8 for prefix, factor in _DECIMAL.items()},
}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
FLOPS = {f"{prefix}FLOP/s": factor for prefix, factor in _DECIMAL.items() if prefix != "k"}
FREQUENCIES = {f"{prefix}Hz": factor for prefix, factor in _DECIMAL.items() if prefix in ("", "k", "M", "G")}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def parse_size(value: str | float, where: str = "size") -> float:
    """Bytes of "80 GiB", "80GB" or a plain number [B]."""
    return _parse(value, SIZES, "80 GiB, 80 GB, 4096 B", where)


def parse_rate(value: str | float, where: str = "rate") -> float:
    """Bytes per second of "3.35 TB/s", "400 Gbit/s" or a plain number [B/s]."""
    return _parse(value, RATES, "3.35 TB/s, 400 Gbit/s, 16 GiB/s", where)


def parse_time(value: str | float, where: str = "time") -> float:
    """Seconds of "1.5 us", "2 ms" or a plain number [s]."""
    return _parse(value, TIMES, "1.5 us, 2 ms, 10 ns", where)


def parse_flops(value: str | float, where: str = "rate") -> float:
    """FLOP/s of "989 TFLOP/s" or a plain number [FLOP/s]."""
    return _parse(value, FLOPS, "989 TFLOP/s, 1.9 PFLOP/s", where)


def parse_frequency(value: str | float, where: str = "frequency") -> float:
    """Hertz of "1.4 GHz" or a plain number [Hz]."""
    return _parse(value, FREQUENCIES, "1.4 GHz, 1755 MHz", where)


def parse_number(value: str | float, where: str = "number") -> float:
    """A plain number."""
    return _parse(value, {}, "a number", where)


def _parse(value: str | float, units: dict[str, float], legal: str, where: str) -> float:
    shown = f"{value!r:.60}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{where}: {shown} is not a quantity (legal: {legal})")
    try:
        if isinstance(value, str):
            match = _QUANTITY.fullmatch(value)
            if match is None or (match[2] and match[2] not in units):
                raise InputError(f"{where}: {shown} is not a quantity (legal: {legal})")
            number = float(match[1]) * (units[match[2]] if match[2] else 1.0)
        else:
            number = float(value)
    except OverflowError:  # a whole number of more than three hundred digits
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where}: {shown} is not finite (legal: {legal})")
    return number


def format_size(value: float) -> str:
    """Bytes with a decimal prefix, as "8.6 GB"."""
    return _scaled(value, "B")


def format_rate(value: float) -> str:
    """Bytes per second with a decimal prefix."""
    return _scaled(value, "B/s")


def format_time(value: float) -> str:
    """Seconds with a prefix, as "12.4 ms"."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(value) >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{_digits(value / 1e-9)} ns" if value else "0 s"


def format_number(value: float) -> str:
    """A number with a prefix letter from ten thousand on, as "70.6 G"."""
    return f"{_digits(value)}" if abs(value) < 1e4 else _scaled(value, "")


def _scaled(value: float, unit: str) -> str:
    for prefix in ("P", "T", "G", "M", "k"):
        if abs(value) >= _DECIMAL[prefix]:
            return f"{_digits(value / _DECIMAL[prefix])} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
