"""Run the references named, or all, and print a line for each."""

from __future__ import annotations

import argparse
import sys
import time

from ...hardware.errors import InputError
from . import references


def main() -> int:
    """Exit status 0 where all are equal, 1 where some differ, 2 for bad input or a rank that failed."""
    parser = argparse.ArgumentParser(prog="python -m commlens.validation.references", description=__doc__)
    parser.add_argument("technique", nargs="*")
    parser.add_argument("--backend", default="gloo")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for all")
    asked = parser.parse_args()
    start = time.monotonic()
    try:
        frame = references(asked.technique or None, asked.backend, asked.timeout)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for row in frame.to_dict("records"):
        if row["status"] == "none":
            what = "" if row["what"] is None or row["what"] != row["what"] else row["what"]
            print(f"{row['technique']:<25}{what:<62}none: {row['reason']}")
            continue
        errors = [f"{row[key]:.0e}".replace("nan", "-") for key in ("output_error", "gradient_error")]
        sent = ", ".join(f"{kind} {size}" for kind, size in row["executed_bytes"].items())
        said = f"{row['technique']:<25}{row['what']:<62}{row['ranks']} ranks  {' '.join(errors)}  {sent}"
        print(f"{said}: {row['status']}")
    differ = int(frame["status"].str.startswith("differs").sum())
    print(f"{len(frame)} rows, {differ} differ, {time.monotonic() - start:.0f} s")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
