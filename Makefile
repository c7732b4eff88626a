# `make run` and `make test` need Python 3.11 or newer, and make; everything else they install into .venv.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000

.PHONY: run test test-all bench check fmt lint types coverage smoke pins clean

run: .venv/run
	$(BIN)/agent-gateway serve --port $(PORT)

test: .venv/dev
	$(BIN)/pytest

test-all: .venv/dev
	HYPOTHESIS_PROFILE=seeking $(BIN)/pytest -m "slow or not slow"

bench: .venv/dev
	$(BIN)/python -m tests.bench.starts

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lint: .venv/dev
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

fmt: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Workers get a clean environment, so what measures them has to come from the interpreter's own start-up files.
coverage: .venv/dev
	$(BIN)/python tests/coverage_run.py

smoke: .venv/run
	$(BIN)/python -I tests/smoke.py

# Pin anew what pyproject.toml asks for, without the address of any index.
PIN := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate --upgrade

pins: .venv/dev
	$(PIN) pyproject.toml -o requirements/run.txt
	$(PIN) --extra dev -c requirements/run.txt pyproject.toml -o requirements/dev.txt
	echo 'setuptools>=77' | $(PIN) - -o requirements/build.txt

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Agent Gateway needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "Making .venv ..."
	$(PYTHON) -m venv .venv

# Editable, by name of the packages: the root itself, with its folder agents/, is on no process's path.
.venv/run: .venv/bin/python pyproject.toml requirements/build.txt requirements/run.txt
	@echo "Installing what the gateway needs, about half a minute ..."
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/build.txt -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/run requirements/dev.txt
	@echo "Installing what its tests need ..."
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	@touch $@
