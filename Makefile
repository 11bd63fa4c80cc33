# `make help` lists the targets. Everything is installed into $(VENV), once.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
TORCH ?= 2.13.0
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PACKAGES := pyproject.toml applications/distillation/pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo test torch lint format types docs serve gallery wheels clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.packages ## distil the digits into ten images, with a table and pictures in runs/digits
	$(BIN)/bilevel-distill run --dataset digits --ipc 1 --method rcig --out runs/digits

test: $(VENV)/.test ## run all tests (ARGS="-k ridge" for some of them)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

torch: $(VENV)/.test $(VENV)/.torch ## install PyTorch elsewhere, and train with it on an exported set
	BILEVEL_TORCH=$(abspath $(VENV))/torch/bin/python $(BIN)/python -m pytest tests/distillation/test_pytorch.py

lint: $(VENV)/.lint ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint ## mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.types ## check types, and that every public name has one
	$(BIN)/pyright --pythonpath $(BIN)/python
	@for package in bilevel bilevel_distillation; do \
	  PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=.:applications/distillation \
	    $(BIN)/pyright --ignoreexternal --verifytypes $$package \
	    >$(VENV)/types.txt || { grep -B 1 -A 1 error $(VENV)/types.txt; exit 1; }; \
	  printf '%s: ' $$package && grep score $(VENV)/types.txt; \
	done

docs: $(VENV)/.docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

serve: $(VENV)/.docs ## show the documentation at http://127.0.0.1:8000, built again at each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

gallery: $(VENV)/.packages $(VENV)/.torch ## run the worked examples, and keep what they print and draw for the site
	$(PIP) flax
	BILEVEL_TORCH=$(abspath $(VENV))/torch/bin/python $(BIN)/python docs/gallery.py

wheels: $(VENV)/.build ## build a wheel and an sdist of both packages into dist/, and check them
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist applications/distillation
	$(BIN)/python -m twine check --strict dist/*

clean: ## remove the environment and all that was built; runs/ stays
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache
	find bilevel applications examples benchmarks tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "bilevel needs Python 3.11 or later; name one with: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.packages: $(VENV)/.python $(PACKAGES)
	@echo "Installing bilevel and bilevel-distillation into $(VENV): a minute or two, once."
	$(PIP) -e . -e applications/distillation
	@touch $@

$(VENV)/.test: $(VENV)/.python $(PACKAGES)
	@echo "Installing bilevel, bilevel-distillation and the test tools into $(VENV): a minute or two, once."
	$(PIP) -e '.[test]' -e 'applications/distillation[cluster]'
	@touch $@ $(VENV)/.packages

$(VENV)/.torch: $(VENV)/.python constraints.txt
	$(PYTHON) -m venv $(VENV)/torch
	$(VENV)/torch/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  torch==$(TORCH) numpy datasets pillow scikit-learn matplotlib
	@touch $@

$(VENV)/.lint: $(VENV)/.python constraints.txt
	$(PIP) ruff
	@touch $@

$(VENV)/.types: $(VENV)/.test
	$(PIP) 'pyright[nodejs]'
	@touch $@

$(VENV)/.docs: $(VENV)/.packages
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.build: $(VENV)/.python constraints.txt
	$(PIP) build twine
	@touch $@
