"""Fit what a software stack's allocator holds over what is live, to every third row that reports memory.

The one number, `fragmentation`, is the median of (reported - reserve) / live over the calibration rows of
a profile, or of profiles that share an allocator. Run as a script it prints it and the error on all other
rows; ``--write`` stores it.
"""

from __future__ import annotations

import re
import sys
from statistics import mean, median

from ..models.memory import footprint
from ..models.scenario import Scenario
from .fit_training import ROOT
from .training.case import Case
from .training.rows import parsed
from .training.tables import cases, is_calibration

# Releases and modes of one project: what its allocator holds is one number.
TOGETHER = {"torchtitan-eager": "torchtitan-compile", "torchtitan-2025": "torchtitan-compile"}


def read() -> dict[str, list[tuple[Case, Scenario]]]:
    """Rows with a reported memory and a scenario, by software profile."""
    found: dict[str, list[tuple[Case, Scenario]]] = {}
    for case in cases():
        scenario = parsed(case) if case.memory else ""
        if isinstance(scenario, Scenario):
            found.setdefault(scenario.software.name, []).append((case, scenario))
    return found


def live_bytes(scenario: Scenario) -> float:
    """Predicted bytes that are in use when most are."""
    total = footprint(scenario.model, scenario.workload, scenario.plan, scenario.software)["total"]
    return (total - scenario.software.reserve) / scenario.software.fragmentation


def fragmentation(rows: list[tuple[Case, Scenario]]) -> float:
    """Median of what is held over what is live."""
    shares = [((case.memory or 0.0) - s.software.reserve) / live_bytes(s) for case, s in rows if is_calibration(case)]
    return max(1.0, median(shares)) if shares else 1.0


def main() -> None:
    """Fit, report, and with --write store."""
    found = read()
    families: dict[str, list[tuple[Case, Scenario]]] = {}
    for name, rows in found.items():
        families.setdefault(TOGETHER.get(name, name), []).extend(rows)
    for name, rows in found.items():
        factor = fragmentation(families[TOGETHER.get(name, name)])
        print(f"{name:20s} fragmentation {factor:.3g}")
        for split in (True, False):
            mine = [
                abs((live_bytes(s) * factor + s.software.reserve) / (case.memory or 1.0) - 1)
                for case, s in rows
                if is_calibration(case) == split
            ]
            if mine:
                print(f"  {'fitted to' if split else 'left out':10s} {len(mine):3d} rows {mean(mine):.1%}")
        if "--write" in sys.argv[1:]:
            path = ROOT / "models" / "presets" / "software" / f"{name}.yaml"
            text = path.read_text(encoding="utf-8")
            line = f"fragmentation: {factor:.3g}"
            if re.search(r"^fragmentation:", text, re.MULTILINE):
                text = re.sub(r"^fragmentation:.*$", line, text, flags=re.MULTILINE)
            else:
                text = text.replace("\nsource:", f"\n{line}\nsource:", 1)
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
