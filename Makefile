# Expunge: everything there is to type. 'make' alone lists it.
#
# Needs Python >= 3.11 with its venv module, and make. The first target makes .venv and installs the
# pinned set of constraints.txt into it; later ones reuse it until pyproject.toml or constraints.txt change.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
LOCK := $(VENV)/lock

PYTHON ?=
TORCH_INDEX ?=
WORKERS ?= 2

INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo
demo: $(INSTALLED) ## unlearn, quantize and audit the built-in model: one table, minutes on two cores
	$(BIN)/expunge demo

.PHONY: test
test: check test-fast ## lints, types, floors and the fast tests; what CI runs

.PHONY: check lint types floors site
check: lint types floors site ## ruff, mypy --strict, the floors and the documentation site, without tests

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

floors: $(INSTALLED)
	$(BIN)/lint-imports

site: $(INSTALLED) ## build the documentation site into build/site; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.PHONY: test-fast
test-fast: $(INSTALLED) ## the fast tests alone
	$(PYTEST) -n $(WORKERS)

.PHONY: test-slow
test-slow: $(INSTALLED) ## tests that train real models: minutes each
	$(PYTEST) -m slow

.PHONY: test-gpu
test-gpu: $(INSTALLED) ## tests that need an accelerator
	$(PYTEST) -m gpu

.PHONY: kill
kill: $(INSTALLED) ## kill every verb at 200 moments: same bytes, nothing lost, nothing left; minutes
	$(PYTEST) -m kill

.PHONY: fuzz
fuzz: $(INSTALLED) ## a thousand malformed inputs: each refused in words; minutes
	$(PYTEST) -m fuzz

.PHONY: bench
bench: $(INSTALLED) ## time and peak memory against the plain way, as ratios
	$(BIN)/python -m benchmarks

.PHONY: docs
docs: $(INSTALLED) ## write docs/metrics.md and docs/schema from the code
	$(BIN)/python -m expunge.metrics.cards
	$(BIN)/python -m expunge.audit.summary
	$(BIN)/python -m expunge.report.document

.PHONY: picture
picture: $(INSTALLED) ## take the README's picture of the demo's report; needs Chromium and the demo's results
	$(BIN)/python -m tests.browser.picture

.PHONY: hooks
hooks: $(INSTALLED) ## run the checks of .pre-commit-config.yaml at every commit
	$(BIN)/pre-commit install

.PHONY: lock
lock: ## resolve the newest versions pyproject.toml allows and write them to constraints.txt
	rm -rf $(LOCK)
	$(MAKE) VENV=$(LOCK) $(LOCK)/bin/python
	$(LOCK)/bin/python -m pip install --upgrade pip
	$(LOCK)/bin/python -m pip install $(INDEX) --editable ".[all]" --group dev
	{ grep '^#' constraints.txt; \
	  $(LOCK)/bin/python -m pip freeze --all --exclude-editable \
	    | sed -E -e '/^(nvidia-|cuda-|triton)/d' -e 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > $(LOCK)/constraints.txt
	mv $(LOCK)/constraints.txt constraints.txt
	rm -rf $(LOCK)

.PHONY: clean
clean: ## remove .venv and every cache; results and the built-in models stay
	rm -rf $(VENV) build dist
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: PYTHON=/path/to/python3.11   which Python .venv is made with\n'
	@printf '           WORKERS=2                    processes the fast tests run in\n'
	@printf '           TORCH_INDEX=https://download.pytorch.org/whl/cpu\n'
	@printf '                                        where torch comes from; PyPI serves Linux its large CUDA build\n'

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	  if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo 'No Python 3.11 or newer with its venv module was found.' >&2; \
	echo 'Install one (Debian, Ubuntu: python3.11 and python3.11-venv), or name it: make PYTHON=/path/to/python' >&2; \
	exit 1

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --constraint constraints.txt $(INDEX) --editable ".[all]" --group dev
	@touch $@
