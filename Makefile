# Every target works from a fresh clone with Python >= 3.10, make and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-fast coverage matrix mutants lint format hooks docs benchmarks clean

demo: $(VENV)/.installed  ## train, sample and measure on real digits: runs/demo/report.html
	$(BIN)/sde-score demo --out runs/demo

test: $(VENV)/.installed  ## everything: about 10 minutes on two idle cores
	$(PYTEST)

test-fast: $(VENV)/.installed  ## the first case of every quick test: the inner loop
	$(PYTEST) -m "not slow"

coverage: $(VENV)/.installed  ## lines and branches that no test reaches
	$(PYTEST) --cov --cov-report=term

matrix: $(VENV)/.installed  ## the suite on other versions of Python and torch, as far as found
	$(BIN)/nox

mutants: $(VENV)/.installed  ## break each changed line and see whether its tests notice
	$(BIN)/python tools/mutants.py $(SINCE)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(VENV)/.installed  ## lint at every commit
	$(BIN)/pre-commit install

docs: $(VENV)/.installed  ## the site in site/, its tables from the registries
	$(BIN)/python docs/build.py

benchmarks: $(VENV)/.bench  ## every data file of benchmarks/results and their page
	$(BIN)/python benchmarks/remake.py $(ONLY)

clean:
	rm -rf $(VENV) .nox .cache site dist build .pytest_cache .mypy_cache .ruff_cache .coverage

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==$(TORCH_VERSION)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@
