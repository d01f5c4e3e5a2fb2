# Two commands for a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo

.PHONY: demo test check lint types docs unit fast clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A CPU build of torch, where the package index offers one, is installed first; any torch within our bounds will do.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "torch==2.13.0" || true
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# The tests also hold the extras (mmsegmentation, lmms-eval, open_clip) to their word.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/levl-eval demo --out $(DEMO_OUT)

test: lint types docs unit

# What a change is tried with at every step, in 90 seconds on two cores: all but tests that take long or several processes.
check: lint types fast

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# The documentation as a site in build/site; a warning (a dead link, a name that is gone) fails.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not distributed"

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache
