# `make demo` and `make test` need Python 3.10 or newer, git and make, nothing else: what they use goes into .venv.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed

# The first of these that is new enough; say `make PYTHON=...` for another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: help demo test lint types docs bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## train five methods on digits, attack them alike, write a report (about three minutes)
	@$(BIN)/robustreg demo

test: $(INSTALLED)  ## the whole test suite
	@$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(INSTALLED)  ## ruff: lint and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy --strict on the package
	@$(BIN)/mypy

docs: $(DOCS_INSTALLED)  ## build the documentation into site/
	@$(BIN)/mkdocs build --strict

bench: $(INSTALLED)  ## step cost against the same maths written by hand
	@set -e; for b in benchmarks/*.py; do echo "$$b"; $(BIN)/python "$$b"; done

clean:  ## remove the environment and everything built
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted set-up starts again.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "robustreg needs Python 3.10 or newer with its venv module;" \
	  "none found (on Debian: apt-get install python3-venv), or say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) -V) (once, a minute or so)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
