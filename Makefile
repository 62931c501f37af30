# The front door. Every target says what it does as it goes; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-dev
BENCH_STAMP := $(VENV)/.ready-bench
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.ready
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --constraint constraints.txt

.PHONY: help setup demo tools test test-scoring check format docs bench bench-serve soak fuzz accuracy bench-accuracy bench-calibration bench-series bench-stream fault-stream clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (Python packages, a minute or two)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV); } \
		|| { rm -rf $(VENV); echo "Python 3.11 or newer with venv is needed (Debian: apt-get install python3-venv)"; exit 1; }
	@$(PIP) --editable '.[dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "adding the peers that benchmarks compare with"
	@$(PIP) --editable '.[dev,bench]'
	@touch $@

$(PEERS_STAMP): pipelines/serve_bench/peers.txt $(STAMP)
	@echo "setting up $(PEERS) (MLServer, a minute or two)"
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv $(PEERS)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(PEERS)/bin/python -m pip install -qq --requirement $< \
		"onnxruntime==$$($(BIN)/python -c 'import onnxruntime; print(onnxruntime.__version__)')"
	@touch $@

setup: $(STAMP)  ## make the virtual environment

demo: $(STAMP)  ## fit, calibrate, register, export, score, serve, reload and stop on real data, start to end
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash pipelines/demo.sh

tools:  ## install what tests use beside Python packages, where it is missing and may be installed; tests skip without it
	@missing=""; for tool in prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager chromium:chromium mosquitto:mosquitto; do \
		PATH="$$PATH:/usr/sbin" command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ]; then if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; } >/dev/null 2>&1 \
			|| echo "not all of$$missing can be had; their tests skip"; \
	else echo "missing:$$missing; their tests skip"; fi; fi

# One thread a worker: threads of several processes that wait for each other on the same cores take three times as long.
test: export OMP_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
test: export MKL_NUM_THREADS = 1
test: $(STAMP) tools test-scoring  ## run every test, in parallel
	@echo "running the tests"
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q

test-scoring: $(STAMP)  ## score in a virtual environment that holds the core packages only: no torch, no pandas, no mlflow
	@VENV="$(VENV)" bash tests/scoring_only.sh

check: $(STAMP)  ## ruff, mypy --strict, import contracts, docs drift
	@echo "ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "mypy --strict"; $(BIN)/mypy
	@echo "import contracts"; $(BIN)/lint-imports
	@echo "docs drift"; $(BIN)/python -m pipelines.reference --check

format: $(STAMP)  ## let ruff format and mend what it can
	@$(BIN)/ruff check --fix-only . ; $(BIN)/ruff format .

docs: $(STAMP)  ## write docs/reference.md from the code
	@$(BIN)/python -m pipelines.reference

bench: $(BENCH_STAMP)  ## measure training and scoring beside peers, into docs/performance.md
	@$(BIN)/python -m pipelines.bench

bench-serve: $(PEERS_STAMP)  ## measure the daemon beside its peers, into docs/performance.md
	@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq wrk >/dev/null; } || true
	@$(BIN)/python -m pipelines.bench_serve

soak: $(STAMP)  ## ten minutes of mixed and hostile load on a daemon that reloads every 20 seconds
	@$(BIN)/python -m pipelines.soak --minutes 10 --reload-every-s 20

fuzz: $(STAMP)  ## a hundred thousand damaged bodies for every decoder of the daemon; new examples for every stated property
	@$(BIN)/python -m pipelines.fuzz --bodies 100000
	@OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -n 2 -q -m hypothesis

accuracy: $(STAMP)  ## measure ranking and false alarms on real tables, into docs/accuracy.md
	@$(BIN)/python -m pipelines.accuracy

bench-accuracy: $(BENCH_STAMP)  ## measure ranking beside other detectors, into docs/accuracy.md; hours, goes on where it stopped
	@$(BIN)/python -m pipelines.benchmark $(ARGS)

bench-calibration: $(BENCH_STAMP)  ## hold stated alarm rates against realised ones, into docs/accuracy.md; hours, goes on where it stopped
	@$(BIN)/python -m pipelines.bench_calibration $(ARGS)

bench-series: $(BENCH_STAMP)  ## measure detectors of series beside ours, into docs/accuracy.md; goes on where it stopped
	@$(BIN)/python -m pipelines.bench_series $(ARGS)

bench-stream: $(STAMP)  ## measure the streaming service beside its own client without scoring, into docs/performance.md
	@$(BIN)/python -m pipelines.bench_stream $(ARGS)

fault-stream: $(STAMP) tools  ## the streaming service through ten kills, cut connections and rebalances with 200,000 records
	@ANOMVAE_FAULT_RECORDS=200000 ANOMVAE_FAULT_KILLS=10 $(BIN)/python -m pytest -q -s --timeout=1800 \
		tests/integration/test_stream_faults.py tests/integration/test_stream_faults_mqtt.py

clean:  ## remove what demo and tests leave
	@rm -rf demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
