"""The one exception users see: a line that names file, key and legal range."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from a user. Its message is a single line; nobody needs the traceback."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return '; did you mean a, b?' with the closest of `names`, or nothing when none is close."""
    from difflib import get_close_matches

    found = get_close_matches(name.lower(), list(names), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(found)}?" if found else ""
