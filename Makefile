# Two commands for everybody: "make run" shows the agent at work, "make test" checks everything.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 4
INTEROP_DIR ?= $(or $(ZSMTP_INTEROP_DIR),$(HOME)/.cache/zsmtp-interop)

.PHONY: help run test check format lint types tests docs recordings interop bench lock clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make run      a post office in a temporary folder, a receiver, and the agent between them (MSG=file.eml TO=a@b)
run: $(READY)
	@$(BIN)/python examples/postoffice.py $(if $(MSG),--message "$(MSG)") $(if $(TO),--to "$(TO)")

## make test     format, lint, types, tests: what CI runs (most tests wait: WORKERS=4 processes run them side by side)
test: check

check: format lint types tests

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy
	$(BIN)/mypy docs/conf.py docs/drawn docs/examples examples

tests: $(READY)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not interop"

## make docs     the documentation as HTML, in build/docs
docs: $(READY)
	$(BIN)/sphinx-build -q -W --keep-going -n -b html docs build/docs
	@echo "build/docs/index.html"

## make recordings   record anew what the documentation shows of commands (root on Linux, after make interop)
recordings: $(READY)
	$(BIN)/python docs/captures/record.py
	ZSMTP_INTEROP_DIR="$(INTEROP_DIR)" $(BIN)/python docs/captures/dovecot.py

## make interop  deliver to real servers from Debian (root; fetched once into INTEROP_DIR)
interop: $(READY)
	tests/interop/install.sh "$(INTEROP_DIR)"
	ZSMTP_INTEROP_DIR="$(INTEROP_DIR)" $(BIN)/python -m pytest -q -m interop tests/interop

## make bench    what things cost, beside peers, in ratios
bench: $(READY)
	$(BIN)/python bench/run.py
	$(BIN)/python bench/conversion.py

## make lock     pin the development environment anew
lock: $(READY)
	$(BIN)/python -m pip install -q pip-tools
	$(BIN)/pip-compile -q --no-header --no-annotate --strip-extras --allow-unsafe \
	    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links -o requirements/dev.lock requirements/dev.in

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv makes the environment where it is at hand, venv and pip do where it is not.
$(READY): requirements/dev.lock pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv -q --allow-existing --python $(PYTHON) $(VENV) && \
	    uv pip install -q --python $(BIN)/python -r requirements/dev.lock && \
	    uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	    $(PYTHON) -m venv $(VENV) && \
	    $(BIN)/python -m pip install -q --disable-pip-version-check -r requirements/dev.lock && \
	    $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $(READY)
