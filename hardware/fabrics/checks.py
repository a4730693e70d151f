"""What every fabric asks of its numbers."""

from __future__ import annotations

import math

from ..errors import InputError

MOST_LINKS = 1 << 22  # directed; about 1 GB while they are laid
MOST_OVERSUBSCRIBED = 64.0
LARGEST = 1 << 20  # of any count: beyond, a slip of the keyboard is likelier than a machine


def count(where: str, value: int, low: int = 1, high: int = LARGEST) -> None:
    """Raise InputError for a count outside [low, high]; `where` names fabric and key."""
    if not low <= value <= high:
        raise InputError(f"{where}: {value} (legal: {low} to {high})")


def links(fabric: str, number: int) -> None:
    """Raise InputError for more links than fit memory well."""
    if number > MOST_LINKS:
        raise InputError(f"{fabric}: {number} links in all (legal: at most {MOST_LINKS})")


def link(fabric: str, bandwidth: float, latency: float, prefix: str = "") -> None:
    """Raise InputError for a bandwidth that is not above 0 or a latency below 0."""
    if not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise InputError(f"{fabric}: {prefix}bandwidth: {bandwidth:g} (legal: above 0 B/s)")
    if not (latency >= 0 and math.isfinite(latency)):
        raise InputError(f"{fabric}: {prefix}latency: {latency:g} (legal: 0 s or more)")


def ratio(where: str, value: float, high: float = MOST_OVERSUBSCRIBED) -> None:
    """Raise InputError for an oversubscription outside [1, high]."""
    if not 1 <= value <= high:
        raise InputError(f"{where}: {value:g} (legal: 1 to {high:g})")
