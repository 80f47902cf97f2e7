# Run `make` to see what each target does.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-cluster cluster-parts check faults bench fix ui wheel pack jars system setup clean

PYTHON3 := $(shell command -v python3 || command -v python3.12 || command -v python3.11)
RECIPE ?= customer_service
PORT ?= 5000
ARGS ?=
GROUPS ?= s3
# Only from the command line: another program's variable GPU means something else.
ifeq ($(origin GPU),command line)
export DISTRIBUTARY_GPU := $(GPU)
endif
BIN := .venv/bin

help:  ## show this text
	@printf 'Distributary: raw files -> documents -> sequences -> run -> model version -> predictions\n\n'
	@printf '  make demo      set up, then run all stages on the shipped data; RECIPE=name takes another file of conf/recipe\n'
	@printf '  make test      set up, then run all tests but the slow ones; ARGS="-k csv -x" goes to pytest\n'
	@printf '  make test-all  set up, then run all tests, also those that start and kill processes\n'
	@printf '  make test-cluster  run the flow on hosts made of network namespaces, with real servers (root); ARGS="-m '\''cluster and soak'\''" the long ones\n'
	@printf '  make ui        open the pages of MLflow on http://127.0.0.1:%s; PORT=5001 takes another port\n' '$(PORT)'
	@printf '  make check     check style, types and imports (ruff, mypy, import-linter)\n'
	@printf '  make faults    plant the faults of tests/faults.txt one by one; the tests named there must notice: an hour\n'
	@printf '  make fix       format the code and correct what ruff can\n'
	@printf '  make bench     measure Distributary beside its peers, as ratios: an hour; installs the peers (2.5 GB)\n'
	@printf '  make wheel     build the package for the executors of a cluster\n'
	@printf '  make pack      pack Python, packages and jars for spark-submit --archives; ARGS=--cpu leaves out CUDA\n'
	@printf '  make jars      download what s3a:// needs with the Spark of .venv (690 MB); GROUPS="s3 servers kafka" also the servers of slow tests\n'
	@printf '  make system    check for Java, compiler, CMake and Python, and install what is missing (root)\n'
	@printf '  make setup     create .venv with pinned packages, Horovod and Delta jars: 5 minutes, once;\n'
	@printf '                 GPU=nccl builds Horovod for GPUs also on a host without one (needs nvcc)\n'
	@printf '  make clean     remove .venv and caches of this checkout; tables and models in warehouse/ stay\n\n'
	@printf 'Downloads and the Horovod wheel are kept in %s\n' '$${DISTRIBUTARY_CACHE:-~/.cache/distributary}'
	@printf 'If something does not work: $(BIN)/distributary doctor\n'

demo: setup  ## all stages on shipped data
	@$(BIN)/distributary run --recipe $(RECIPE) $(ARGS)

test: setup  ## all tests but the slow ones
	@$(BIN)/python -m pytest -m 'not slow and not cluster and not soak' $(ARGS)
	@printf 'The slow tests (they start and kill processes) were left out. To run them: make test-all, or make test-all ARGS="-m slow"\n'

test-all: setup  ## all tests; those of the cluster where the machine has its parts
	@$(BIN)/python -m pytest -m 'not soak' $(ARGS)

test-cluster: cluster-parts  ## the flow on several hosts with real servers; root, Linux
	@$(BIN)/python -m pytest -m 'cluster and not soak' $(ARGS)

cluster-parts: setup  ## programs, jars and packages for test-cluster
	@$(BIN)/python -m tools.cluster_parts

check: setup  ## static checks; all of them run, and one failure is enough to fail
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	exit $$status

faults: setup  ## plant faults, run the tests that must notice them
	@$(BIN)/python -m tools.faults $(ARGS)

fix: setup  ## formatting and safe corrections
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## measurements
	@$(BIN)/python -m benchmarks.peers
	@$(BIN)/python -m benchmarks.launcher $(ARGS)
	@$(BIN)/python -m benchmarks.dataset $(ARGS)
	@$(BIN)/python -m benchmarks.encoding
	@$(BIN)/python -m benchmarks.packing
	@$(BIN)/python -m benchmarks.signals
	@$(BIN)/python -m benchmarks.neardup
	@$(BIN)/python -m benchmarks.increment
	@$(BIN)/python -m benchmarks.increment_dataset
	@$(BIN)/python -m benchmarks.digest
	@$(BIN)/python -m benchmarks.growth
	@$(BIN)/python -m benchmarks.capacity
	@$(BIN)/python -m benchmarks.building
	@$(BIN)/python -m benchmarks.reader
	@$(BIN)/python -m benchmarks.resume
	@$(BIN)/python -m benchmarks.trace
	@$(BIN)/python -m benchmarks.preference
	@$(BIN)/python -m benchmarks.checkpoint

wheel: setup  ## dist/distributary-*.whl, for --py-files or an executor's environment
	@$(BIN)/python -m build --wheel --outdir dist . | tail -n 1

pack: setup  ## dist/distributary-*.tar.gz, for --archives
	@$(BIN)/python -m tools.pack $(ARGS)

jars: setup  ## jars that not everybody needs, with verified checksums
	@$(BIN)/python -m tools.jars $(GROUPS)

ui:  ## the pages of MLflow, on this machine only
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

setup:  ## does nothing if nothing changed
ifeq ($(PYTHON3),)
	@echo 'python3 is missing; on Debian and Ubuntu: apt-get install -y python3 python3-venv python3-dev' >&2; exit 1
else
	@$(PYTHON3) tools/setup.py
endif

clean:  ## what can be created again
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache spark-warehouse
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
