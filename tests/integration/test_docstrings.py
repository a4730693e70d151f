"""The examples in docstrings and in the README print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["hardware", "solvers", "simulator", "models", "validation"]


def modules_with_examples() -> list[str]:
    """Return the dotted names of modules that hold examples."""
    files = [*ROOT.glob("*.py"), *(path for top in FOLDERS for path in (ROOT / top).rglob("*.py"))]
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in files if ">>>" in path.read_text()]
    return sorted(".".join(["commlens", *part]).removesuffix(".__init__") for part in parts)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_a_module(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_examples_of_the_readme():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.failed == 0
