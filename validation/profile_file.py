"""A profile of collectives as a file that links and clusters can name."""

from __future__ import annotations

from collections.abc import Mapping

from ..hardware import Profile, Protocol
from ..hardware.profile import PROTOCOLS

SPREAD = "spread of errors on the rows it was fitted to (models.spread), by commlens.validation.fit_errors"


def profile_text(profile: Profile, title: str, source: str, wire: str, notes: Mapping[str, str] | None = None) -> str:
    """YAML of a profile, every number with its source.

    Parameters
    ----------
    profile : Profile
        With a `link_bandwidth`.
    title : str
        First line.
    source : str
        Of the fitted numbers.
    wire : str
        Of the link's bandwidth.
    notes : mapping of str to str, optional
        What to add to the source of a key.
    """
    assert profile.link_bandwidth is not None
    more = notes or {}
    lines = [f"# {title}", f'link_bandwidth: {{value: "{profile.link_bandwidth / 1e9:.6g} GB/s", source: "{wire}"}}']
    if profile.absolute:
        lines.append("absolute: true")
    for key in PROTOCOLS:
        said = source + more.get(key, "")
        lines.append(f'{key}: {{value: {_protocol(getattr(profile, key))}, source: "{said}"}}')
    lines.append(f'bulk_bias: {{value: {profile.bulk_bias:g}, source: "{source}"}}')
    if profile.in_switch is not None:
        switch = f"{{base: {_time(profile.in_switch.base)}, efficiency: {profile.in_switch.efficiency:.3f}}}"
        lines.append(f'in_switch: {{value: {switch}, source: "{source}"}}')
    if profile.spread:
        shown = ", ".join(f"{key}: {value:.4f}" for key, value in profile.spread.items())
        lines.append(f'spread: {{value: {{{shown}}}, source: "{SPREAD}"}}')
    if profile.error:
        shown = ", ".join(f"{key}: {value:.4f}" for key, value in profile.error.items())
        lines.append(f'error: {{value: {{{shown}}}, source: "mean relative error on rows left out of the fit"}}')
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def _protocol(part: Protocol) -> str:
    return (
        f"{{base: {_time(part.base)}, hop: {_time(part.hop)}, "
        f"efficiency: {part.efficiency:.3f}, copy: {part.copy:.2f}}}"
    )
