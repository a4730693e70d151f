"""The wheel holds the whole package and nothing else, and works away from the source."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import commlens

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FLOORS = ["hardware", "solvers", "simulator", "models", "validation"]
SHIPPED = {".py", ".yaml", ".json", ".csv", ".npz"}


def shipped() -> set[str]:
    """Return what the wheel has to hold, as paths below the package."""
    top = [path for path in ROOT.iterdir() if path.suffix == ".py" or path.name == "py.typed"]
    below = [path for floor in FLOORS for path in (ROOT / floor).rglob("*")]
    return {path.relative_to(ROOT).as_posix() for path in [*top, *(path for path in below if path.suffix in SHIPPED)]}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Return what a command prints; its complaints become the test's."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_folder_with_code_is_a_listed_package():
    folders = {Path(file).parent for file in shipped() if file.endswith(".py")}
    found = {".".join(["commlens", *folder.parts]) for folder in folders}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_the_tests_run_on_this_source():
    assert Path(commlens.__file__) == ROOT / "__init__.py"
    assert commlens.__version__ == version("commlens") == PROJECT["project"]["version"]


def test_no_module_is_imported_twice():
    files = [
        str(Path(file).resolve())
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) and Path(file).suffix == ".py"
    ]
    ours = {str(ROOT / name) for name in shipped()}
    assert sorted(file for file in ours if files.count(file) > 1) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy: a build leaves folders behind in its source."""
    missing = [name for name in ("setuptools", "wheel") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} to build with")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a name unlike the package's, as any clone may have
    leave = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=leave)
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", folder, source, cwd=folder,
    )  # fmt: skip
    return next(folder.glob("commlens-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    held = {name for name in names if not name.startswith(f"commlens-{commlens.__version__}.")}
    assert held == {f"commlens/{name}" for name in shipped()}
    assert any(name.endswith("licenses/LICENSE") for name in names - held)


@pytest.mark.slow
def test_the_wheel_works_from_elsewhere(wheel, tmp_path):
    target = tmp_path / "target"
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel,
        cwd=tmp_path,
    )  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "models").mkdir()  # a user's own folder must not shadow ours, nor ours theirs
    (elsewhere / "models" / "__init__.py").write_text("mine = True\n")
    where = {"PYTHONPATH": str(target)}
    python = [sys.executable, "-W", "error"]
    assert target.as_posix() in run(
        *python, "-c", "import commlens, models; assert models.mine; print(commlens.__file__)",
        cwd=elsewhere, **where,
    )  # fmt: skip
    assert "compare" in run(*python, "-m", "commlens", "--help", cwd=elsewhere, **where)
    for noun in ("devices", "clusters", "models", "software", "techniques"):
        assert run(*python, "-m", "commlens", "list", noun, cwd=elsewhere, **where).count("\n") > 2
    script = target / "bin" / "commlens"
    assert "t3" in run(sys.executable, script, "list", "techniques", cwd=elsewhere, **where)
