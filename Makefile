# Everything runs in .venv, made here from the tested pins. Any Python 3.11 or 3.12 does:
#   make demo PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs
# Test processes; each grows to between 5 and 8 GB.
WORKERS ?= 2

.PHONY: help install demo demo-smoke lint types test test-all format clean

help:  ## Lists the commands.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Makes .venv with the tested versions and this package.

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Python 3.11 or 3.12 is needed, but $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: install  ## Searches a cell by passing tests on real digits, then trains it (minutes).
	$(BIN)/python launch/run.py --config=configs/lpt_digits.py --workdir=$(RUNS)/lpt_digits

demo-smoke: install  ## The same chain in under a minute: too short to learn much.
	$(BIN)/python launch/run.py --config=configs/lpt_digits.py:smoke --workdir=$(RUNS)/lpt_digits_smoke

lint: install  ## Style, and the shape of docstrings.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Static types of the package.
	$(BIN)/mypy

test: lint types  ## Lint, types and the test suite.
	$(BIN)/python -m pytest -m "not long" -n $(WORKERS) --dist loadfile

test-all: lint types  ## The suite with its long tier.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

format: install  ## Rewrites the sources in the project's style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Removes build products and caches, never runs/.
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .jax_cache
