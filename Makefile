# The same names in README, CI and docs. Everything installs itself: `make run` on a fresh Debian 12 is enough.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup run test check bench crash fuzz attacks conservation clean

PYTHON ?= python3
BIN := .venv/bin
# What the targets need of the system; python3-pydbus is what CMS code in Python uses (contract tests), fuse3 the disk that
# notes every write, swtpm a TPM.
APT := mosquitto mosquitto-clients dbus python3-venv python3-pydbus strace \
       e2fsprogs fdisk fuse3 swtpm tpm2-tools
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

LINTED := src tests benchmarks docs/examples packaging/partition

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: .venv/.ready ## system packages and a virtual environment in .venv; does nothing when all is there

.venv/.ready: pyproject.toml
	@missing=; for package in $(APT); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	    $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends $$missing; \
	fi
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

run: setup ## the main job: six devices, five seats, a kill -9 in the middle (STAY=1 leaves it up)
	@PYTHONPATH=tests $(BIN)/python tests/system/main_job.py $(if $(STAY),--stay)

test: setup ## every test
	$(BIN)/pytest $(PYTEST_ARGS)

check: setup ## ruff, mypy strict, import contracts
	$(BIN)/ruff check --no-cache $(LINTED)
	$(BIN)/ruff format --no-cache --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## how close to the limit it is: one table, build/bench.json beside it (SHORT=1: under a minute)
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.bench $(if $(SHORT),--short)

crash: setup ## the ledger against every fault: one table, build/crash.json beside it (SHORT=1: CI's form; FAULTS="F1 F7")
	@PYTHONPATH=tests:. $(BIN)/python -m crash.main $(if $(SHORT),--short) $(FAULTS)

fuzz: setup ## every parser of documents with changed documents: one table, build/fuzz.json beside it (SHORT=1: CI's form)
	@$(BIN)/pip install -q --disable-pip-version-check atheris 2>/dev/null || echo "fuzz: no Atheris here, our mutator feeds alone"
	@PYTHONPATH=tests:. $(BIN)/python -m fuzz.main $(if $(SHORT),--short) $(TARGETS)

attacks: setup ## every attack on real programs: one table, build/attacks.json beside it
	@PYTHONPATH=tests:. $(BIN)/python -m attacks.main

conservation: setup ## no license is lost or doubled, whatever happens: one table, build/conservation.json (SHORT=1: CI's form)
	@PYTHONPATH=tests:. $(BIN)/python -m conservation.main $(if $(SHORT),--short)

clean: ## remove what the other targets made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
