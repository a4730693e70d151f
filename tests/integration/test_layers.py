"""Imports point down the floors of the house, and to declared dependencies."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from commlens.models.techniques import BASELINE, registry

ROOT = Path(__file__).parents[2]
FLOOR = {
    "hardware": 0, "solvers": 0, "simulator": 1, "models": 2, "validation": 3,
    "cli": 4, "arguments": 4, "console": 4, "catalog": 4,
    "network": 4, "sequences": 4, "experts": 4, "measuring": 4, "__init__": 4, "__main__": 4,
}  # fmt: skip
NOT_SHIPPED = {"tests", "notebooks", "build", "dist"}
MODULE_OF = {"pyyaml": "yaml"}  # distributions that are imported by another name


def modules() -> list[str]:
    """Return every Python file of the package, relative to the root."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(
        path.as_posix() for path in found if path.parts[0] not in NOT_SHIPPED and not path.parts[0].startswith(".")
    )


def imports(source: str, file: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of all that a file imports, anywhere in it.

    ``from a import b`` yields ``a.b``: only the whole tells which floor is meant in
    ``from .. import models``. Calls of ``import_module`` count where their argument is a literal.
    """
    package = ["commlens", *Path(file).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *(node.module or "").split(".")]
            for alias in node.names:
                yield node.lineno, ".".join(part for part in [*base, alias.name] if part)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(name, ast.Constant):
                dots = len(name.value) - len(name.value.lstrip("."))
                above = package[: len(package) - dots + 1] if dots else []
                yield node.lineno, ".".join([*above, name.value.lstrip(".")])


def home(file: str) -> str:
    """Return the folder, or the root's module, that a file belongs to."""
    return Path(file).parts[0].removesuffix(".py")


def breaches(source: str, file: str) -> list[str]:
    """Return one line for each import that does not point down."""
    here = home(file)
    found = []
    for line, name in imports(source, file):
        top, _, rest = name.partition(".")
        if top in FLOOR:
            found.append(f"{file}:{line}: {name} by its bare name works only inside the repository")
        if top != "commlens":
            continue
        there = rest.partition(".")[0]
        if here == "solvers" and rest.startswith("hardware.errors"):
            continue  # the one exception users see, whoever raises it
        if there not in FLOOR:  # the package itself, or a name that its __init__ hands out
            there = "__init__"
        if there != here and FLOOR[there] >= FLOOR[here] and FLOOR[here] < FLOOR["cli"]:
            found.append(f"{file}:{line}: {here} (floor {FLOOR[here]}) imports {there}")
    return found


def undeclared(source: str, file: str, declared: set[str]) -> list[str]:
    """Return one line for each imported package that pyproject.toml does not name."""
    known = declared | set(sys.stdlib_module_names) | {"commlens"}
    return [
        f"{file}:{line}: {name} is not a dependency in pyproject.toml"
        for line, name in imports(source, file)
        if name.partition(".")[0] not in known
    ]


def declared_modules() -> set[str]:
    """Return import names of the package's dependencies and of the extras its code may use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["torch"], *extras["dask"]]
    names = (re.split(r"[<>=!~\[; ]", text)[0].lower() for text in needed)
    return {MODULE_OF.get(name, name) for name in names}


def singled_out(source: str, file: str) -> list[str]:
    """Return one line for each comparison with the name of a technique."""
    names = set(registry()) - {BASELINE}  # what the others are held against
    return [
        f"{file}:{node.lineno}: {leaf.value} is a case of its own"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare | ast.MatchValue)
        for leaf in ast.walk(node)
        if isinstance(leaf, ast.Constant) and leaf.value in names
    ]


def test_every_module_stands_on_a_floor():
    assert sorted({home(file) for file in modules()} - set(FLOOR)) == []


@pytest.mark.parametrize("file", modules())
def test_imports_point_down(file):
    assert breaches((ROOT / file).read_text(), file) == []


def test_imports_are_declared():
    declared = declared_modules()
    found = {file: undeclared((ROOT / file).read_text(), file, declared) for file in modules()}
    assert [line for lines in found.values() for line in lines] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("hardware/a.py", "from ..simulator import Program"),
        ("hardware/a.py", "from .. import simulator"),
        ("hardware/a.py", "from ..solvers.lp import solve"),
        ("solvers/a.py", "from ..hardware import Device"),
        ("simulator/a.py", "import commlens.models.plan"),
        ("simulator/__init__.py", "from ..models import plan"),
        ("simulator/a.py", "def f():\n    from ..validation.claims import read"),
        ("simulator/a.py", "if TYPE_CHECKING:\n    from ..models.plan import Plan"),
        ("models/techniques/family/a.py", "from ....validation import claims"),
        ("models/techniques/family/__init__.py", "from ....cli import app"),
        ("models/a.py", "from .. import simulate"),
        ("models/a.py", "import commlens"),
        ("models/a.py", "import_module('..validation.claims', __package__)"),
        ("validation/a.py", "from ..cli import app"),
        ("validation/a.py", "from hardware import Device"),
    ],
)
def test_a_back_arrow_is_found(file, source):
    assert len(breaches(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("simulator/a.py", "from ..hardware import Device\nfrom . import program\nimport simpy"),
        ("simulator/__init__.py", "from .program import Program"),
        ("models/techniques/family/a.py", "from ....simulator import Program\nfrom ..x import y"),
        ("models/techniques/family/__init__.py", "from ...plan import Plan"),
        ("validation/a.py", "from .. import models"),
        ("cli.py", "from .models import study\nfrom .validation import validate"),
        ("__main__.py", "from .cli import main"),
        ("__init__.py", "import_module(f'.{name}', __name__)"),
    ],
)
def test_an_arrow_down_is_not(file, source):
    assert breaches(source, file) == []


def test_a_technique_is_one_file():
    files = [file for file in modules() if not file.startswith(("models/techniques/", "validation/"))]
    assert [line for file in files for line in singled_out((ROOT / file).read_text(), file)] == []


@pytest.mark.parametrize(
    "source", ["if call.name == 't3': pass", "x = name in ('a', 'lasp')", "match name:\n    case 'usp':\n        pass"]
)
def test_a_technique_singled_out_is_found(source):
    assert len(singled_out(source, "models/a.py")) == 1


def test_an_undeclared_import_is_found():
    declared = declared_modules()
    assert {"yaml", "numpy", "torch"} <= declared
    assert len(undeclared("import requests.api", "models/a.py", declared)) == 1
    assert undeclared("import yaml, os.path\nfrom . import b", "models/a.py", declared) == []
