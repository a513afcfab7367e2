# Everything a contributor runs. `make test` and `make demo` work from a fresh clone: they set up .venv themselves.
.PHONY: setup lint test test-all demo gpu lock clean
.DEFAULT_GOAL := help

VENV ?= .venv
PY := $(VENV)/bin/python
# Mosaic's interpreter blocks threads of XLA's pool: on few cores it starves without more of them.
export NPROC ?= 16

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.stamp ## find or install Python >= 3.12, install the locked packages into .venv
$(VENV)/.stamp: pyproject.toml requirements.lock .ci/setup
	bash .ci/setup $(VENV)
	@touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint ## lint, type-check, and run the tests (CPU only, about ten minutes on two cores)
	$(PY) -m pytest -n 2 --dist worksteal -m "not extended"
