"""`import commlens` must cost little: it is paid by every script and every command."""

import subprocess
import sys

HEAVY = {
    "dask", "highspy", "matplotlib", "networkx", "pandas", "pulp", "pydantic", "rich", "scipy",
    "simpy", "torch", "typer", "yaml",
}  # fmt: skip
MOST = 1.8  # times `import numpy`; printed here and not asserted, as a loaded machine shifts it


def fresh(code: str, tmp_path) -> str:
    """Return what the code prints in a new process, started away from the repository."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def seconds(module: str, tmp_path) -> float:
    """Return the least time of five imports."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return min(float(fresh(code, tmp_path)) for _ in range(5))


def test_import_loads_nothing_heavy(tmp_path):
    loaded = fresh("import sys, commlens; print(*sys.modules)", tmp_path).split()
    assert "commlens" in loaded
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()


def test_import_time_beside_numpy(tmp_path, capsys):
    ratio = seconds("commlens", tmp_path) / seconds("numpy", tmp_path)
    with capsys.disabled():
        print(f"\nimport commlens: {ratio:.2f} x import numpy (limit {MOST})")
