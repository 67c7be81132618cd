# Caliper's commands. On a bare machine with Python 3.11+ (pip and venv, nothing else) `make run` is enough.
#
#   make run         set up everything and serve on http://127.0.0.1:8000 (PORT=8001 for another port)
#   make test        set up everything and run all tests that need no GPU
#   make lint        ruff, mypy, djade, import-linter, missing migrations, known vulnerabilities of dependencies
#   make chaos       five minutes of broken processes, databases and brokers under judging; counts what was lost
#   make benchmark   the figures of docs/measurements.md (UKPConvArg1; about ten minutes on two cores)
#   make clean       remove the virtual environment and caches; never the data folder
#
# Settings of the set-up:
#   PYTHON=python3.12            the Python that the virtual environment is made with
#   CALIPER_TORCH="torch==2.11.0"  another PyTorch than the CPU one, for example on a GPU host;
#   CALIPER_TORCH=system         take the PyTorch that PYTHON already has

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -qq
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PORT ?= 8000
CALIPER_TORCH ?=
TORCH_CPU := torch==2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
SETUP_MB := 4000
STAMP := $(VENV)/.caliper-run
DEV_STAMP := $(VENV)/.caliper-dev

export PORT

.PHONY: run test chaos lint benchmark clean setup setup-dev
.DEFAULT_GOAL := run

run: $(STAMP)
	@$(PY) -m webapp.embedded

test: $(DEV_STAMP)
	@$(PY) -m tests.run

chaos: $(DEV_STAMP)
	@$(PY) -m tests.chaos.chaos

lint: $(DEV_STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	find templates -name '*.html' -print0 | xargs -0 $(VENV)/bin/djade --check --target-version 5.2
	$(PY) manage.py makemigrations --check --dry-run
	$(VENV)/bin/mypy
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m tests.audit

benchmark: $(STAMP)
	$(PY) -m benchmarks.ukp_accuracy

setup: $(STAMP)
setup-dev: $(DEV_STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(PY):
	@test -n "$(PYTHON)" || { echo "caliper: no Python 3.11 or later was found; install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "caliper: Python 3.11 or later is needed; $(PYTHON) is `$(PYTHON) -V 2>&1`"; exit 1; }
	@test "$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1024) }')" -ge $(SETUP_MB) || \
		{ echo "caliper: less than $(SETUP_MB) MB of disk are free here; setting up needs that much"; exit 1; }
	@echo "caliper: making a virtual environment with $(PYTHON) in $(VENV)"
	@$(PYTHON) -m venv $(if $(filter system,$(CALIPER_TORCH)),--system-site-packages) $(VENV) || \
		{ rm -rf $(VENV); echo "caliper: $(PYTHON) cannot make virtual environments; install its venv and pip (on Debian: python3-venv)"; exit 1; }

# PyTorch goes first and is not in constraints.txt, since hosts with a GPU need another build of it. For the CPU:
# a file that pip finds on disk, else PyTorch's own index of CPU builds, else what the package index has (on Linux
# that brings gigabytes of CUDA libraries). What PyTorch itself needs comes with the pinned dependencies.
$(VENV)/.caliper-torch: | $(PY)
	@echo "caliper: installing PyTorch (once; some minutes)"
	@if [ "$(CALIPER_TORCH)" = system ]; then \
		$(PY) -c 'import torch' || { echo "caliper: $(PYTHON) has no PyTorch, but CALIPER_TORCH=system was asked for"; exit 1; }; \
	elif [ -n "$(CALIPER_TORCH)" ]; then $(PIP) install $(CALIPER_TORCH); \
	else $(PIP) install --no-index --no-deps $(TORCH_CPU) 2>/dev/null || \
		$(PIP) install --retries 1 --no-deps --index-url $(TORCH_CPU_INDEX) $(TORCH_CPU) 2>/dev/null || \
		$(PIP) install $(TORCH_CPU); \
	fi || { echo "caliper: PyTorch could not be installed (see above; is a package index within reach?)"; exit 1; }
	@touch $@

$(STAMP): pyproject.toml constraints.txt | $(VENV)/.caliper-torch
	@echo "caliper: installing the pinned dependencies (once; some minutes)"
	@$(PIP) install -c constraints.txt -e '.[worker,serve,embedded]' || \
		{ echo "caliper: the dependencies could not be installed (see above; is a package index within reach?)"; exit 1; }
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "caliper: installing the tools for tests"
	@$(PIP) install -c constraints.txt -e '.[worker,serve,client,embedded,sso,quantised,tracking,dev]' || \
		{ echo "caliper: the test tools could not be installed (see above; is a package index within reach?)"; exit 1; }
	@touch $@
