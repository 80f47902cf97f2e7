# The words people guess. `make` alone explains them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check bench fix ui wheel system setup clean

PYTHON3 := $(shell command -v python3 || command -v python3.12 || command -v python3.11)
RECIPE ?= customer_service
PORT ?= 5000
ARGS ?=
BIN := .venv/bin

help:  ## this text
	@printf 'Distributary: raw files -> documents -> sequences -> run -> model version -> predictions\n\n'
	@printf '  make demo      set up, then prepare a corpus, fine-tune a classifier with Horovod on Spark, register\n'
	@printf '                 and score it; RECIPE=name takes another file of conf/recipe\n'
	@printf '  make test      set up, then run all tests; ARGS="-k dedup -x" goes to pytest\n'
	@printf '  make ui        MLflow on http://127.0.0.1:%s: curves, pictures, model versions; PORT=5001\n' '$(PORT)'
	@printf '  make check     static checks: ruff, mypy, the direction of imports\n'
	@printf '  make fix       let ruff mend what it can\n'
	@printf '  make bench     measure: ours beside its peers, as ratios\n'
	@printf '  make wheel     the package for the executors of a cluster\n'
	@printf '  make system    check the machine (Java, compiler, CMake, Python) and install what it lacks (root)\n'
	@printf '  make setup     .venv with pinned packages, Horovod, Delta jars; 5 minutes once, then no time at all\n'
	@printf '  make clean     remove .venv and caches of this checkout; tables and models in warehouse/ stay\n\n'
	@printf 'Downloads and the Horovod wheel are kept in %s\n' '$${DISTRIBUTARY_CACHE:-~/.cache/distributary}'
	@printf 'What is wrong with this machine or set-up: $(BIN)/distributary doctor\n'

demo: setup  ## the whole flow on shipped data
	@$(BIN)/distributary run --recipe $(RECIPE) $(ARGS)

test: setup  ## all tests
	@$(BIN)/python -m pytest $(ARGS)

check: setup  ## static checks; all three run, then the worst status counts
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	exit $$status

fix: setup  ## mend what ruff can
	@$(BIN)/ruff check --fix .

bench: setup  ## measurements
	@$(BIN)/python -m benchmarks.launcher $(ARGS)

wheel: setup  ## dist/distributary-*.whl, for --py-files or an executor's environment
	@$(BIN)/python -m build --wheel --outdir dist . | tail -n 1

ui:  ## MLflow's pages, on this machine only
	@test -f warehouse/mlflow.db || { echo 'no runs yet (warehouse/mlflow.db is missing); run: make demo' >&2; exit 1; }
	@$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///warehouse/mlflow.db

system:  ## what the machine must have
ifeq ($(PYTHON3),)
	@echo 'python3 is missing; installing it'
	@apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev
	@python3 tools/setup.py --system
else
	@$(PYTHON3) tools/setup.py --system
endif

setup:  ## a no-op where nothing changed
ifeq ($(PYTHON3),)
	@echo 'python3 is missing; on Debian and Ubuntu: apt-get install -y python3 python3-venv python3-dev' >&2; exit 1
else
	@$(PYTHON3) tools/setup.py
endif

clean:  ## what can be made again
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache spark-warehouse
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
