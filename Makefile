# Everything here needs make and a Python from 3.10 to 3.13; whatever else is needed goes into .venv.
#
#   make test                       with the python3 of this machine
#   make test PYTHON=python3.12     with another one; .venv is made anew for it

PYTHON ?= python3
# How many tests run at a time. They wait for servers more than they compute: two for each processor.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# How many seeded worlds `make faults` runs, from which seed on.
SEEDS ?= 300
FIRST_SEED ?= 1
# How often `make race` races the real agent, and agents that only know the lock.
TRIALS ?= 200
LOCK_TRIALS ?= 100000
# How many tests of tests/ami run at a time, each with a machine or some.
MACHINES ?= 4
# More arguments for pytest, such as PYTEST_ARGS="-k election".
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
MADE := $(VENV)/.made-$(PYTHON_VERSION)
LOCAL := $(VENV)/.local-$(PYTHON_VERSION)
DEV := $(VENV)/.dev-$(PYTHON_VERSION)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint faults faults-real race bench ami-test ami-bundle ami-lock docs clean
.NOTPARALLEL:

help: ## Show this list
	@echo "scaler-sidecar: EC2 workers for ClearML queues, without a service worker."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Each works alone on a fresh checkout; PYTHON=python3.12 chooses another Python (3.10 to 3.13)."

demo: $(LOCAL) ## Watch a whole cluster live and end, on this machine alone
	@$(BIN)/scaler-sidecar demo $(DEMO_ARGS)

test: lint faults ## Lint, types, seeded faults and all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

lint: $(DEV) ## Style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

faults: $(DEV) ## Seeded faults in the simulated world: SEEDS=N FIRST_SEED=M
	@$(BIN)/python -m scaler_plugin.simulation.chaos --seeds $(SEEDS) --first-seed $(FIRST_SEED)

faults-real: $(DEV) ## As root: kill, freeze, cut off and fill up real processes
	@rm -rf build/faults-real
	@SCALER_FAULTS=all $(BIN)/python -m pytest -n $(WORKERS) tests/faults/real $(PYTEST_ARGS); code=$$?; \
	cat build/faults-real/*.json 2>/dev/null; exit $$code

race: $(DEV) ## Pulls against retiring nodes: TRIALS=N with the real agent, LOCK_TRIALS=N on the lock
	@SCALER_RACE_TRIALS=$(TRIALS) SCALER_LOCK_TRIALS=$(LOCK_TRIALS) $(BIN)/python -m pytest -s \
	  tests/e2e/agent/test_race_with_agent.py tests/contract/test_gate_race.py $(PYTEST_ARGS)

bench: $(DEV) ## Measure speed and size against their limits
	@$(BIN)/python -m bench

ami-test: $(DEV) ## As root: bake the image with Packer on this machine, and boot it
	@SCALER_AMI_TESTS=1 $(BIN)/python -m pytest -n $(MACHINES) --dist loadgroup --no-loadscope-reorder tests/ami $(PYTEST_ARGS)

ami-bundle: $(MADE) ## Pack what a stock image needs at its first boot: build/ami-bundle.tar.gz
	@PYTHON=$(BIN)/python ami/bundle.sh build/ami-bundle.tar.gz

ami-lock: $(DEV) ## Renew the image's pinned packages (ami/*.lock)
	@ami/lock.sh $(BIN)/python

docs: $(DEV) ## Write the generated pages anew (docs/cli.md, docs/configuration.md)
	@$(BIN)/python -m scaler_plugin.config.reference > docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md
	@$(BIN)/python -m scaler_plugin.cli.reference > docs/cli.md.new
	@mv docs/cli.md.new docs/cli.md

clean: ## Remove .venv, caches and build output
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@case "$(PYTHON_VERSION)" in \
	  3.10|3.11|3.12|3.13) ;; \
	  "") echo "There is no $(PYTHON) here. Install Python 3.10 to 3.13, or name one: make PYTHON=python3.12 …" >&2; exit 1 ;; \
	  *) echo "$(PYTHON) is Python $(PYTHON_VERSION); 3.10 to 3.13 are supported. Name another: make PYTHON=python3.12 …" >&2; exit 1 ;; \
	esac
	@have=$$($(BIN)/python -m pip --version 2>/dev/null | sed -n 's/.*(python \(.*\))$$/\1/p'); \
	if [ "$$have" != "$(PYTHON_VERSION)" ]; then \
	  echo "Making $(VENV) with Python $(PYTHON_VERSION)."; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "The environment could not be made. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	fi
	@rm -f $(VENV)/.local-* $(VENV)/.dev-*
	@touch $@

$(LOCAL): $(MADE) setup.cfg pyproject.toml
	@echo "Installing scaler-sidecar and the embedded parts into $(VENV) (once; a minute or two)."
	@$(BIN)/python -m pip install --quiet --editable '.[local]'
	@touch $@

$(DEV): $(MADE) setup.cfg pyproject.toml
	@echo "Installing scaler-sidecar and what its tests need into $(VENV) (once; a minute or two)."
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(LOCAL) $@
