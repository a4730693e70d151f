"""Importing the package loads nothing heavy, and every name it promises exists."""

import subprocess
import sys

import pytest

import commlens.simulator as simulator

HEAVY = ("simpy", "pandas", "matplotlib", "networkx", "scipy")


def test_import_is_light() -> None:
    code = (
        "import sys, commlens.simulator, commlens.simulator.program; "
        "import commlens.simulator.algorithms.lowering, commlens.simulator.communicator; "
        f"import commlens.simulator.timeline; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there() -> None:
    for name in simulator.__all__:
        assert getattr(simulator, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        simulator.nonsense  # noqa: B018
