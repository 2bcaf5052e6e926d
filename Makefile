PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint check format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Install into .venv (again only when the dependencies changed)

$(STAMP): pyproject.toml setup.py constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; install it or name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (some minutes the first time) ..."
	@$(PIP) install -c constraints.txt torch==2.13.0
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Train a small world model of a pendulum and report on it
	$(BIN)/leworld train --config pendulum

test: $(STAMP)  ## Run the quick tests, in two processes
	$(BIN)/pytest -q -n 2

test-all: $(STAMP)  ## Run all tests, those too that take longer than a minute
	$(BIN)/pytest -q -n 2 -m "slow or not slow"

lint: $(STAMP)  ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test  ## Check everything before a commit: lint, then the quick tests

format: $(STAMP)  ## Format and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:  ## Remove .venv and everything built, but no runs
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
