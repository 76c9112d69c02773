# Development of the template itself. Everything is installed into .venv and rendered into scratch/.
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never
# As pip does: trust the certificates of this machine, so that a company's proxy works.
export UV_SYSTEM_CERTS ?= true
# Before 3.11.8, two threads that show where in a line an error is break each other (python/cpython#106905): a service's
# thread that logs, and pytest. Without columns nothing is shown.
export PYTHONNODEBUGRANGES := 1
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# `make setup PYTHON=/path/to/python3.12` takes another interpreter than the first usable one.
PYTHON ?=
python := .venv/bin/python
# A test process for each core; one that runs out of tests takes some of another's.
side_by_side := --numprocesses auto --dist worksteal
harness := template/harness
pilot := scratch/demo-pilot

ready := .venv/.ready
state := $(CURDIR) $(PYTHON)
ifneq ($(strip $(shell cat $(ready) 2>/dev/null)),$(strip $(state)))
.PHONY: $(ready)
endif

.PHONY: help setup demo test test-again test-full test-spark coverage lint bench manifest constraints release release-check clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(ready) ## install into .venv what development needs (again only when that changed)
	@$(if $(filter setup,$(MAKECMDGOALS)),echo "Development is set up in .venv.",:)

demo: setup ## render a pilot with default answers into scratch/demo-pilot, and run its demo
	@echo "Rendering a pilot with default answers into $(pilot) (the one of last time is deleted) ..."
	@rm -rf $(pilot)
	@.venv/bin/copier copy --quiet --defaults $(if $(wildcard .git),--vcs-ref=HEAD) "$(CURDIR)" $(pilot)
	@echo "Making it a repository with a first commit ..."
	@cd $(pilot) && git init --quiet --initial-branch=main && git add --all \
	&& git -c user.name=demo -c user.email=demo@example.org -c commit.gpgsign=false commit --quiet --message "Start from pilot-template"
	@echo "Running 'make demo' in it ..."
	@$(MAKE) --directory=$(pilot) demo

test: setup ## the tests, a generated pilot's own on every Python included (minutes)
	@$(python) -m pytest -m "not slow" $(side_by_side)

test-again: setup ## the tests that failed in the last run, one after another; more than three are no accident
	@$(python) -c 'import json; failed = json.load(open(".pytest_cache/v/cache/lastfailed")); \
	print("Again, alone:", *failed, sep="\n  "); raise SystemExit(not 0 < len(failed) <= 3)'
	@$(python) -m pytest -m "not slow" --last-failed --last-failed-no-failures none

test-full: setup ## all tests, the slowest included
	@$(python) -m pytest $(side_by_side)

test-spark: setup ## the pipeline on Spark, two executors included, beside DuckDB; without Java 17 it skips
	@$(python) -m pytest -q -rs tests/harness/test_spark.py

coverage: setup ## lines and branches of the harness that its tests take, child processes included (minutes)
	@rm -rf scratch/coverage; mkdir -p scratch/coverage
	@$(python) -m coverage run -m pytest -q -m "not slow" tests/harness
	@$(python) -m coverage combine --quiet
	@$(python) -m coverage report

lint: setup ## style, types and the direction of imports
	@$(python) -m ruff check tests $(harness) $(wildcard hooks update release fleet benchmarks)
	@$(python) -m ruff format --check tests $(harness) $(wildcard hooks update release fleet benchmarks)
	@$(python) -m mypy
	@cd $(harness)/src && $(CURDIR)/.venv/bin/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

bench: setup ## the benchmarks, each beside a peer or a floor (about half an hour)
	@for name in generation startup decision serving control data demo update; do echo "== $$name"; $(python) benchmarks/$$name.py; done
	@echo "== all"; $(python) benchmarks/measure.py

manifest: setup ## renew the list of the standard's files, and the page of the checks
	@$(python) -m pilot_template.hooks.template

release: setup ## check, write, commit and tag a version: make release VERSION=1.2.3 (OPTIONS=--dry-run only says what it would do)
	@$(python) -m release $(VERSION) $(OPTIONS)

release-check: setup ## what holds between this version and every release; changes nothing
	@$(python) -m release --check

# No index address, path or command in them: only names, versions, hashes, markers.
compile := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
           --no-emit-index-url --no-emit-find-links --upgrade
constraints: .venv/bin/uv ## renew the sets of versions that are tested: the pilot's and the template's own
	@printf 'uv>=0.9,<1\n' | $(compile) - --output-file $(harness)/uv.txt >/dev/null
	@printf 'hatchling>=1.27\nsetuptools\n' | $(compile) - --output-file $(harness)/build-constraints.txt >/dev/null
	@$(compile) --all-extras $(harness)/pyproject.toml --output-file $(harness)/constraints.txt >/dev/null
	@$(compile) --group dev --all-extras $(harness)/pyproject.toml --constraints $(harness)/constraints.txt --output-file constraints.txt >/dev/null
	@for file in $(foreach name,uv build-constraints constraints,$(harness)/$(name).txt); do \
	    { printf '# This file is the standard'"'"'s: `copier update` replaces it. Relax a pin in overrides.txt.\n'; cat $$file; } > $$file.new; \
	    mv $$file.new $$file; \
	done
	@echo "Renewed. Now: make test-full"

.venv/bin/uv:
	@$(MAKE) setup || [ -x $@ ]

clean: ## remove caches and scratch/
	@rm -rf scratch
	@find . \( -path ./.venv -o -path ./.git \) -prune -o \
	    -type d \( -name __pycache__ -o -name .pytest_cache -o -name .ruff_cache -o -name .mypy_cache -o -name .hypothesis \) \
	    -prune -exec rm -rf {} +

# Runs a command and, on a terminal, shows the seconds that pass: uv is quiet here, and this takes a while.
define with_clock
"$$@" & pid=$$!
trap 'kill $$pid 2>/dev/null; wait $$pid; exit 130' INT TERM
seconds=0
while [ -t 2 ] && kill -0 $$pid 2>/dev/null; do printf '\r  %s s ' $$seconds >&2; sleep 1; seconds=$$((seconds + 1)); done
[ $$seconds = 0 ] || printf '\r        \r' >&2
wait $$pid
endef
export with_clock
timed := sh -c "$$with_clock" sh

# An interpreter will do if it runs, is 3.11 to 3.13 and can make environments: a pyenv shim or a Debian
# without python3-venv exists and does not.
will_do := 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

# .venv/.unfinished stands from the first to the last step. Where it is found, or the environment belongs to another
# folder, a set-up was cut short or is out of date, and the environment is made anew.
$(ready): pyproject.toml constraints.txt $(harness)/pyproject.toml $(harness)/build-constraints.txt $(harness)/uv.txt Makefile
	@if [ -e .venv/.unfinished ] || [ ! -e $(ready) ] || [ "$$(cat $(ready))" != "$(strip $(state))" ] || ! $(python) -c '' 2>/dev/null; then \
	    found=; \
	    for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3 python3.12 python3.13); do \
	        if "$$candidate" -c $(will_do) 2>/dev/null; then found=$$candidate; break; fi; \
	    done; \
	    [ -n "$$found" ] || { echo "make setup: no usable Python 3.11 to 3.13 (with venv) on PATH. Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 2; }; \
	    echo "Making .venv with $$("$$found" --version) ..."; \
	    mkdir -p .venv; touch .venv/.unfinished; \
	    "$$found" -m venv --clear .venv; \
	    touch .venv/.unfinished; \
	    $(python) -m pip install --quiet --no-deps --require-hashes --requirement $(harness)/uv.txt \
	    || { echo "make setup: uv could not be downloaded. Check the network and pip's index (pip config list), then run it again." >&2; exit 2; }; \
	fi
	@touch .venv/.unfinished
	@echo "Installing what development needs ..."
	@$(timed) .venv/bin/uv pip install --python $(python) --quiet --compile-bytecode --constraints constraints.txt \
	    --build-constraints $(harness)/build-constraints.txt --group dev --editable . --editable '$(harness)[dev]' \
	|| { echo "make setup: the packages were not installed, see above. Check the network and pyproject.toml, then run it again." >&2; exit 2; }
# Dated from the start: what was edited meanwhile is newer.
	@printf '%s\n' "$(strip $(state))" > $(ready); touch -r .venv/.unfinished $(ready)
	@rm -f .venv/.unfinished
