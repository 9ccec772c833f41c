# endomatch_ros: `make demo` and `make test` need Python >= 3.10, nothing else; `make help` lists the rest.
#   PYTHON=python3.12   the interpreter for .venv       VENV=.venv   where that lies
#   ROS=system          use the ROS installation that is sourced instead of the wheels from PyPI (Linux x86_64 only)
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11 python3.10,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 10) and print("$(p)")' 2>/dev/null)) python3)
ROS ?= $(if $(filter Linux-x86_64,$(shell uname -s -m | tr ' ' -)),wheels,system)
VENV ?= .venv
DEMO_OUTPUT ?= demo_output
# The recipes of the models in the package.
TRAIN_ARGS ?= --config config/train_embedded.yaml
HIPPOCAMPUS ?= hippocampus
HIPPOCAMPUS_ARGS ?= --size 44 60 46 --channels 16 32 64 128 --shrink 2 --levels 3 --steps 6000 --learning-rate 0.001 --warmup 100 \
	--decay cosine --clip 1 --precision bf16-mixed --curve 0.5 --inversion 0 --shuffling 0.3 --painting 0.5
HIPPOCAMPUS_OUTPUT ?= runs/hippocampus
VENV_PATH := $(abspath $(VENV))
BIN := $(VENV_PATH)/bin
STAMP := $(VENV)/.endomatch-$(ROS)
REQUIREMENTS := $(if $(filter wheels,$(ROS)),-r requirements.txt,-c constraints.txt -e ".[train,mono,evaluate,gvsl,test,lint]")

# The venv goes in front of whatever is there already: a sourced ROS installation keeps its place behind it.
prepend = $(1)="$(2)$${$(1):+:$$$(1)}"
RUN = env $(call prepend,AMENT_PREFIX_PATH,$(VENV_PATH))
ifeq ($(ROS),wheels)
# The wheels' own start-up hook puts their libraries into LD_LIBRARY_PATH in no fixed order; with a sourced ROS there, that
# mixes two distributions. So it is done here, and the hook told so.
SITE = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
LIBS = $(VENV_PATH)/lib$(shell printf ':%s' $(SITE)/ros_*.libs)
RUN += $(call prepend,PYTHONPATH,$(SITE)) $(call prepend,LD_LIBRARY_PATH,$(LIBS)) \
	_ROS_WHEELS_BOOTSTRAP_COMPLETE=1 RMW_IMPLEMENTATION=rmw_fastrtps_cpp
endif

.PHONY: help demo test test-all lint format docs train-embedded train-dense pretrain-hippocampus venv clean distclean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 23

demo: $(STAMP) ## stream a synthetic endoscope through the real node; leaves demo_output/
	@$(RUN) $(BIN)/endomatch demo --output $(DEMO_OUTPUT)

test: $(STAMP) ## the tests, without those marked slow
	$(RUN) $(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: $(STAMP) ## all tests
	$(RUN) $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude '*.md' .
	$(BIN)/mypy

format: $(STAMP) ## apply ruff's formatting and safe fixes
	$(BIN)/ruff format --exclude '*.md' .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## README, docs/ and the API as a site in site/; what leads nowhere fails it
	@$(BIN)/python -c 'import furo, myst_parser, sphinx, sphinxcontrib.mermaid' 2>/dev/null || \
		$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(RUN) $(BIN)/python -m sphinx -q -E -W --keep-going -c docs . site

train-embedded: $(STAMP) ## train the embedded model anew (first part; docs/model_card.md); another run: TRAIN_ARGS="--data PATH --output DIR ..."
	$(RUN) $(BIN)/endomatch train $(TRAIN_ARGS)

pretrain-hippocampus: $(STAMP) ## pre-train the registration model anew: HIPPOCAMPUS=folder with images/ [HIPPOCAMPUS_OUTPUT=DIR]
	$(RUN) $(BIN)/endomatch pretrain volume --data $(HIPPOCAMPUS) --output $(HIPPOCAMPUS_OUTPUT) $(HIPPOCAMPUS_ARGS)

train-dense: $(STAMP) ## train the head for dense fields of the embedded model; its descriptors stay as they are
	$(RUN) $(BIN)/endomatch train --config config/train_dense.yaml

venv: $(STAMP) ## make .venv and install everything into it

$(STAMP): pyproject.toml setup.py setup.cfg requirements.txt constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) was not found; install Python >= 3.10 or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), but Python >= 3.10 is needed; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(if $(filter system,$(ROS)),--system-site-packages) $(VENV)
	@echo "Installing into $(VENV); on a fresh machine this downloads some gigabytes (PyTorch with CUDA) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check $(REQUIREMENTS)
	@touch $@

clean: ## remove what builds, tests and the demo leave behind
	rm -rf build install log dist site *.egg-info demo_output bench_output .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV)
