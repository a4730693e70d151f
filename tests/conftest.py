"""What every test runs under: repeatable random cases, no window, benchmarks when asked for."""

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]

os.environ["MPLBACKEND"] = "Agg"

# No deadline and no too_slow: a loaded machine is not a failure.
hypothesis.settings.register_profile(
    "commlens",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("commlens")


class RootIsAFolder:
    """Keep pytest from taking the root's __init__.py for a package of tests.

    It would import it a second time, under the name of the folder the repository was cloned into.
    """

    @pytest.hookimpl
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    # Registered, since a conftest's own hooks are not asked about folders above it.
    config.pluginmanager.register(RootIsAFolder())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what measures time, so that the default run leaves it out."""
    for item in items:
        if "benchmark" in getattr(item, "fixturenames", ()):
            item.add_marker("benchmark")
