# `make` alone lists the targets.
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

.PHONY: help setup demo test drills bench up down
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(READY)  ## make .venv with everything that is needed

# The stamp is written last, so an interrupted set-up starts again.
$(READY): requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: python3 is $$(python3 --version 2>&1 | cut -d" " -f2); install Python 3.11 or later" >&2; exit 2; }
	@echo "Set-up of $(VENV): downloads about 3 GB (PyTorch and its libraries), 7 GB on disk, 1 to 10 minutes by your connection."
	@if command -v uv >/dev/null; then uv=uv; [ -x $(PY) ] || uv venv -q --python "$$(command -v python3)" $(VENV); \
	 else [ -x $(PY) ] || python3 -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "error: python3 cannot make a virtual environment; install its venv module (Debian: python3-venv) or uv" >&2; exit 2; }; \
	   uv=$(VENV)/bin/uv; [ -x $$uv ] || \
	    { $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; $(PY) -m pip install -q uv; }; fi; \
	 start=$$(date +%s); \
	 $$uv pip install -q --python $(PY) --require-hashes -r requirements.lock && \
	 $$uv pip install -q --python $(PY) --no-deps -e . && \
	 cp requirements.lock $(READY) && echo "Set-up took $$(( $$(date +%s) - start )) s."

demo: $(READY)  ## the whole pipeline on real photographs, about 6 minutes; ends with runs/demo/report.html
	@$(VENV)/bin/fm demo

test: $(READY)  ## lint, types, import contracts and every test but the slow ones (pytest -m slow)
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check -q . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports --no-logo
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --dist loadfile -m "not services and not browser and not slow"
	@$(PY) -m pytest -m "(services or browser) and not slow"

drills: $(READY)  ## kill processes in the middle of the work and look at what is left
	@$(PY) -m tests.drills

bench: $(READY)  ## the benchmarks' tables
	@$(PY) -m tests.benchmarks

up: $(READY)  ## start Prefect, MLflow and Ray on this machine
	@$(VENV)/bin/fm up

down: $(READY)  ## stop them
	@$(VENV)/bin/fm down
