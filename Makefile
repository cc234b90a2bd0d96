# Two commands matter: `make demo` and `make test`. Both make .venv first if it is not there.
PYTHON ?= python3
PIP_ARGS ?=
SCANS ?=
TEST_ARGS ?= -n 2 --dist loadfile
BENCH_ARGS ?=
SCALE ?= toy
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

# files are UTF-8 whatever the locale says
export PYTHONUTF8 := 1
.PHONY: help setup demo test check lab figures notebooks gallery evidence bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 20

setup: .venv/installed  ## .venv with everything pinned (PYTHON=python3.12, PIP_ARGS="..." pass through)

# torch first and alone: whatever 2.13 is already there (a CUDA or ROCm build, a container's) is kept; a Python that has one lends it to .venv.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "asapkit needs Python 3.11 to 3.13; say make setup PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv $$($(PYTHON) -c 'import importlib.metadata as m; print("--system-site-packages" if m.version("torch").startswith("2.13.") else "")' 2>/dev/null)
	@$(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit(not m.version("torch").startswith("2.13."))' 2>/dev/null || $(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the whole job on the phantom: demo/ with notebooks as HTML, figures, scores.csv, summary.json
	$(BIN)/asapkit demo

test: setup  ## the whole test suite (TEST_ARGS="-k store" passes through)
	$(BIN)/python -m pytest $(TEST_ARGS)

check: setup  ## ruff, format, fast tests: about two minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(TEST_ARGS) -m "not slow"

lab: setup  ## JupyterLab on notebooks/
	$(BIN)/jupyter lab --notebook-dir=notebooks

figures: setup  ## the only writer of the committed figures/ (scale small, the demo's store and runs; SCANS='["PATH = CREDIT"]': real scans beside them)
	$(BIN)/asapkit demo --out demo
	$(if $(SCANS),$(BIN)/asapkit run notebooks/01_look_at_scan.ipynb --out demo/real --set scale=small --set store=$(CURDIR)/demo/store --set out=$(CURDIR)/demo/figures --set 'scans=$(SCANS)')
	mkdir -p figures && cp demo/figures/[0-9][0-9]_*.png demo/figures/[0-9][0-9]_*.csv figures/

notebooks: setup  ## every notebook, executed, as HTML in build/ (SCALE=small: as in the demo)
	$(BIN)/asapkit run $(NOTEBOOKS) --out build --set scale=$(SCALE)

gallery: notebooks  ## build/gallery/index.html: the executed notebooks as a website that needs no network
	$(BIN)/asapkit gallery build build/gallery

evidence: setup  ## the measured claims: up to three hours on two cores, resumable
	$(BIN)/python -m benchmarks.evidence

bench: setup  ## speed and memory beside the released algorithm, one table (BENCH_ARGS="--quick --only steps" passes through)
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

clean:  ## what the commands above wrote, .venv excepted
	rm -rf build demo .pytest_cache .ruff_cache .hypothesis
