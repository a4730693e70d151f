# Every target works from nothing: it makes .venv and installs the pinned versions into it first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL = $(PIP) install --constraint constraints.txt
DEMO = $(BIN)/python -m commlens.validation.demo

.PHONY: demo test slow lint types notebooks bench wheel clean

demo: .venv/user
	$(DEMO)

# Two workers, files whole: costly fixtures are those of a file. Workers cannot measure time.
WORKERS = --numprocesses 2 --dist loadfile

test: .venv/developer
	$(BIN)/python -m pytest $(WORKERS) --benchmark-disable

slow: .venv/developer
	$(BIN)/python -m pytest $(WORKERS) -m "slow and not benchmark"

lint: .venv/developer
	$(BIN)/ruff check --output-format concise .

# What users get is the wheel, so that is what is checked, from a folder that does not hold the source.
types: wheel
	rm -rf build/installed
	$(PIP) install --no-deps --target build/installed dist/*.whl
	cd build && MYPYPATH=installed ../$(BIN)/mypy --config-file ../pyproject.toml --package commlens

notebooks: .venv/developer
	$(BIN)/python -m pytest $(WORKERS) --nbmake --nbmake-timeout=300 --confcutdir=notebooks notebooks

bench: .venv/developer
	$(BIN)/python -m pytest tests/benchmarks -m benchmark

# An earlier build's leftovers in build/ would end up in the wheel.
wheel: .venv/developer
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel --no-isolation >/dev/null

# The stamps: a change of what is to be installed installs again, anything else does not.
.venv/user: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) setuptools wheel
	$(INSTALL) --no-build-isolation --editable .
	touch $@

.venv/developer: .venv/user
	$(INSTALL) --no-build-isolation --editable '.[dask,notebook,test,torch]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
