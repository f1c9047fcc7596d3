# Two commands for everybody: "make run" shows the system at work, "make test" checks everything.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED := $(VENV)/.compiled
WORKERS ?= 4
TESTS ?= tests
EFFORT ?= 4
DEB_DIR ?= build/deb
INTEROP_DIR ?= $(or $(ZSMTP_INTEROP_DIR),$(HOME)/.cache/zsmtp-interop)

PYTEST := -m pytest -q -n $(WORKERS) --dist worksteal

# What one process has compiled the next finds: tests start hundreds of them.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run run-agent test check format lint types tests coverage explore docs recordings interop chaos bench deb lock clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make run         the system in a temporary folder: a program submits, and
##                  receivers greylist, refuse, are dead and come back
run: $(READY)
	@$(BIN)/python examples/system.py

## make run-agent   a post office in a temporary folder, a receiver, and the
##                  agent between them (MSG=file.eml TO=a@b)
run-agent: $(READY)
	@$(BIN)/python examples/postoffice.py $(if $(MSG),--message "$(MSG)") $(if $(TO),--to "$(TO)")

## make test        format, lint, types, tests: what CI runs (many tests wait:
##                  WORKERS=4 processes run them side by side)
test: check

check: format lint
	@$(MAKE) --no-print-directory -j2 types $(TESTS)

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

tests: $(COMPILED)
	$(BIN)/python $(PYTEST) -m "not interop"

## make coverage    the tests, measured with every process that they start;
##                  below the floor in pyproject.toml it fails
coverage: $(COMPILED)
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run $(PYTEST) -m "not interop"
	@$(BIN)/coverage combine -q build/coverage 2>/dev/null || true  # of a process that was killed the data may be cut off
	@$(BIN)/coverage report --format=total > build/coverage/total || { $(BIN)/coverage report --skip-covered --sort=cover; exit 1; }
	@echo "coverage: $$(cat build/coverage/total) % of lines and branches"

## make explore     the properties and seeded worlds, with EFFORT=4 times as
##                  many examples, other ones each time
explore: $(COMPILED)
	ZSMTP_EFFORT=$(EFFORT) $(BIN)/python $(PYTEST) -o timeout=1800 -m "(hypothesis or seeds) and not interop"

## make docs        the documentation as HTML, in build/docs
docs: $(READY)
	$(BIN)/sphinx-build -q -W --keep-going -n -b html docs build/docs
	@echo "build/docs/index.html"

## make recordings  record anew what the documentation shows of commands
##                  (root on Linux, after make interop)
recordings: $(READY)
	$(BIN)/python docs/captures/record.py
	ZSMTP_INTEROP_DIR="$(INTEROP_DIR)" $(BIN)/python docs/captures/dovecot.py

## make interop     deliver to real servers from Debian (root; fetched once
##                  into INTEROP_DIR)
interop: $(READY)
	tests/interop/install.sh "$(INTEROP_DIR)"
	ZSMTP_INTEROP_DIR="$(INTEROP_DIR)" $(BIN)/python -m pytest -q -m interop tests/interop

## make chaos       three nodes and a PostgreSQL of their own for ten minutes,
##                  while everything dies at random (SECONDS=600 SEED=1)
chaos: $(READY)
	$(BIN)/python -m tests.chaos.fleet --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

## make bench       what things cost, beside peers, in ratios
bench: $(READY)
	$(BIN)/python bench/run.py
	$(BIN)/python bench/conversion.py

## make deb         a Debian package for the release of Debian or Ubuntu that
##                  this is, in DEB_DIR=build/deb; packaging/README.md
deb:
	@/usr/bin/python3 packaging/deb/build_deb.py "$(DEB_DIR)"

## make lock        pin the development environment anew, for every Python
##                  that is supported
lock: $(READY)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --upgrade --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links -o requirements/dev.lock requirements/dev.in

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv makes the environment where it is at hand, venv and pip do where it is not.
$(READY): requirements/dev.lock pyproject.toml
	@echo "making $(VENV), once: the tools for development are downloaded and installed, in a minute or two"
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

# In a new environment one process compiles the tests, with their assertions rewritten; WORKERS processes would each do
# the same work. The run itself reports a module that cannot be collected.
$(COMPILED): $(READY)
	@$(BIN)/python -m pytest -q --collect-only >/dev/null 2>&1 || true
	@touch $(COMPILED)
