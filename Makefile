# Everything a contributor runs. `make test` and `make demo` work from a fresh clone: they set up .venv themselves.
.PHONY: setup lint check docs test test-all test-long test-cuda13 test-newest package emulate demo bench networks gpu lock clean
.DEFAULT_GOAL := help

VENV ?= .venv
CUDA13 := .venv-cuda13
PY := $(VENV)/bin/python
# Mosaic's interpreter blocks threads of XLA's pool: on few cores it starves without more of them.
export NPROC ?= 16
# Where there is no GPU, JAX's CUDA plugin need not look for one, and say so at length.
export JAX_PLATFORMS ?= $(if $(wildcard /dev/nvidia[0-9]* /dev/dxg /dev/kfd),,cpu)

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.stamp ## find or install Python >= 3.12, install the locked packages into .venv
$(VENV)/.stamp: pyproject.toml requirements.lock .ci/setup
	bash .ci/setup $(VENV)
	@touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m bench.renew --list

docs: setup ## build the documentation into build/docs; every warning is an error
	$(PY) -m sphinx -b html -E -d build/doctrees -W --keep-going -q docs build/docs

check: lint ## lint, type-check, and run the tests that compile nothing, in less than a minute
	$(PY) -m pytest -n 2 --dist worksteal --uncompiled -m "not extended and not aot"

# LLVM would take half of the time to optimise programs that run once; `make test-all` runs them optimised, too.
test: lint docs package ## lint, type-check, build documentation and package, and run the tests (CPU only, about 19 minutes on two cores)
	XLA_FLAGS="--xla_backend_optimization_level=0 $$XLA_FLAGS" $(PY) -m pytest -n 2 --dist worksteal -m "not extended" --durations=15

test-all: test test-long test-cuda13 test-newest ## test, test-long, test-cuda13 and test-newest, which take hours together

# PART=3/8 runs the third of eight parts. Another ptxas makes other machine code of the same PTX: tests that read registers and
# spills have the ptxas of CUDA 13 compile it, too.
test-long: setup $(CUDA13)/.stamp ## the long test matrices
	FURTHER_PTXAS="$$(realpath $(CUDA13)/lib/python3*/site-packages/nvidia/cu13/bin/ptxas)" && export FURTHER_PTXAS && \
	    $(PY) -m pytest -n 2 --dist worksteal -m extended $(PART:%=--part %)

# What executes PTX need not run again: a test compares it with that of CUDA 12. Only the version in its header differs.
test-cuda13: $(CUDA13)/.stamp ## the GPU compile tests of `make test` with CUDA 13
	OTHER_PYTHON="$(abspath $(PY))" $(CUDA13)/bin/python -m pytest -n 2 --dist worksteal -m "aot and not extended" --ignore tests/emulator

$(CUDA13)/.stamp: pyproject.toml requirements.lock .ci/setup | $(VENV)/.stamp
	bash .ci/setup $(CUDA13) --constraint requirements.lock ".[cuda13,flax,haiku,inox,test,bench,demo]"
	@touch $@

test-newest: setup ## the tests of `make test` with the newest JAX
	bash .ci/setup .venv-newest --upgrade ".[cuda12,flax,haiku,inox,test,bench,demo]"
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal -m "not extended"

package: setup ## build source distribution and wheel, install the wheel into an empty environment, and use it there
	bash .ci/package $(VENV)

emulate: setup ## execute the compiled kernels (PTX) on this CPU, one case a rung of the ladder, and print what they did
	$(PY) -m tests.emulator

demo: setup ## train a U-Net on real photographs, stock equinox and this package side by side; writes out/denoise.png
	$(PY) -m examples.denoise --out out/denoise.png

# XLA sizes its pools by the cores there are; see NPROC above. PyTorch is a column more where $(PY) has it.
bench: setup ## layers on this CPU, stock equinox beside this package, under 15 minutes; writes out/ and draws out/cpu.png
	mkdir -p out
	env -u NPROC $(PY) -m pytest bench/test_layers.py -q --benchmark-json=out/layers_cpu.json --benchmark-disable-gc --benchmark-quiet
	$(PY) -m bench.chart out/layers_cpu.json out/cpu.png

networks: setup ## training steps of eight networks on this CPU, stock equinox beside this package; writes out/, draws out/networks.png
	env -u NPROC $(PY) -m bench.networks --out out/networks_cpu.json
	$(PY) -m bench.chart out/networks_cpu.json out/networks.png

PYTHON ?= python3
gpu: ## on a machine with a GPU and JAX: probe the hardware, check every kernel, time the suite against XLA; no set-up
	$(PYTHON) -m bench.gpu --minutes 9

lock: SHELL := bash
lock: ## resolve the newest packages (JAX stays pinned below) into requirements.lock
	uv pip compile pyproject.toml --extra test --extra bench --extra demo --extra flax --extra haiku --extra inox --extra cuda12 --extra lint --extra docs \
	    --constraint <(echo 'jax==0.11.2') --python-version 3.12 --no-emit-index-url --no-header --no-annotate -o requirements.lock

clean: ## remove the environments and caches
	rm -rf .venv .venv-cuda13 .venv-newest .tools .mypy_cache .ruff_cache build *.egg-info
