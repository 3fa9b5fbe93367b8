# Every command of this project. Needs Python 3.11 and a network; each target sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
# Where bytecode may not be kept, every stage compiles the training stack anew: about 6 s of its 12 s before the first step.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help dev demo test test-unit test-integration test-slow test-gpu check lint format type compile-check bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

dev: $(READY) ## Set up .venv: pinned versions, this checkout installed in place

# torch comes by pip and first: pip finds a local or a CPU-only build where the machine offers one, and uv then keeps it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Varietal needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[build,dev]'
	touch $(READY)

demo: $(READY) ## Build, release and pull the example variants in a temporary clone
	demo/run

# Files are shared out between two processes: a training or DVC waits more than it computes.
test: check ## What CI runs: lint, types, pipelines up to date, every test but gpu and slow
	pytest -n 2 --dist loadfile

check: lint type compile-check ## The fast half of `make test`

lint: $(READY) ## Rules and formatting, nothing changed
	ruff check .
	ruff format --check .

format: $(READY) ## Mend what can be mended by a tool
	ruff check --fix-only .
	ruff format .

type: $(READY) ## Strict types
	mypy

compile-check: $(READY) ## Every generated models/*/dvc.yaml is what its manifest says
	varietal compile --check

test-unit: $(READY) ## The unit tier alone; it refuses to use a network
	pytest tests/unit

test-integration: $(READY) ## Real git, real `dvc repro`, tiny models
	pytest tests/integration

test-slow: $(READY) ## With the tests marked slow
	pytest --slow

test-gpu: $(READY) ## The tests that need a GPU
	pytest tests/gpu

bench: $(READY) ## Every figure of docs/performance.md
	for script in bench/[a-z]*.py; do python $$script || exit 1; done

clean: ## Remove caches; keeps .venv and .varietal
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find registry builder tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
