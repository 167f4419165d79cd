# `make help` lists what there is. Everything is installed into .venv from requirements/*.txt, by hash.

VENV := .venv
BIN := $(VENV)/bin
REPORTS := reports
# Each has servers of its own; most tests wait more than they compute.
TEST_PROCESSES ?= 2

# The first Python that is new enough; `make PYTHON=/path/to/python3` chooses another.
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$candidate >/dev/null 2>&1 || continue; \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	echo $$candidate; break; done)

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALLED_RUN := $(VENV)/.installed-run
INSTALLED_DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run fmt lint types test test-all golden migrate migration-check openapi-check audit loadtest bench \
	coverage mutants check lock docs tools clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED_RUN) ## Run Kasbah on this machine: database, cache, sample tenants, server (Ctrl-C stops it)
	@exec $(BIN)/python -m service dev

install: $(INSTALLED_DEV) ## Install everything for development into .venv

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Kasbah needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -w . || { echo "cannot write to $(CURDIR): check Kasbah out where you may write" >&2; exit 1; }
	@echo "==> creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, install python3-venv" >&2; exit 1; }

$(INSTALLED_RUN): requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what Kasbah needs (once; a minute or so)"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what development needs (once; a few minutes)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED_RUN) $@

fmt: $(INSTALLED_DEV) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --exit-zero .

lint: $(INSTALLED_DEV) ## Check format, lint rules and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(INSTALLED_DEV) ## Check types
	$(BIN)/mypy

test: $(INSTALLED_DEV) tools ## Test everything but the nightly runs; starts its own PostgreSQL and Valkey
	$(BIN)/python -m pytest -q --numprocesses=$(TEST_PROCESSES) --dist=loadfile $(PYTEST_OPTIONS)

test-all: $(INSTALLED_DEV) tools ## Test everything, also what takes hours
	$(BIN)/python -m pytest -q --numprocesses=$(TEST_PROCESSES) --dist=loadfile --nightly

# Tools that only the system's package manager has; a test that needs a missing one is skipped and says so.
tools:
	@missing=""; for tool in nginx chromium; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq >/dev/null 2>&1; \
		for tool in $$missing; do \
			echo "==> installing $$tool for its tests"; \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$tool >/dev/null 2>&1 \
				|| echo "$$tool could not be installed: its tests are skipped"; \
		done; \
	else echo "not here:$$missing; their tests are skipped (CI=true as root installs them)"; fi

golden: $(INSTALLED_DEV) ## Check the golden decisions of policies/ and their coverage
	$(BIN)/kasbah policy lint policies
	$(BIN)/kasbah policy test policies
	$(BIN)/python -m pytest -q tests/golden

migrate: $(INSTALLED_RUN) ## Bring the database at KASBAH_MIGRATION_DATABASE_URL (or KASBAH_DATABASE_URL) up to date
	$(BIN)/kasbah migrate

migration-check: $(INSTALLED_DEV) ## Apply the migrations to an empty database and look at the result
	$(BIN)/python -m pytest -q tests/integration/test_migrations.py tests/architecture/test_rls.py

openapi-check: $(INSTALLED_DEV) ## Validate docs/openapi.yaml and drive the running service from it
	$(BIN)/openapi-spec-validator docs/openapi.yaml
	$(BIN)/python -m pytest -q tests/architecture/test_openapi.py tests/api/test_openapi_fuzz.py

# --strict: a package that the registry has no reports for is a failure, not a package without vulnerabilities.
audit: $(INSTALLED_DEV) ## Look for known vulnerabilities in the locked dependencies
	$(BIN)/uv tool run pip-audit --strict --disable-pip --require-hashes -r requirements/dev.txt

bench: $(INSTALLED_DEV) ## Measure decisions against the baselines and print a table
	$(BIN)/python -m benchmarks

coverage: $(INSTALLED_DEV) ## Measure which branches of the authentication core its tests take; all of them must be
	$(BIN)/python -m tools.core_coverage

mutants: $(INSTALLED_DEV) ## Put small faults into the authentication core and count those that its tests notice (an hour or two)
	$(BIN)/python -m tools.mutants $(MUTANTS)

loadtest: $(INSTALLED_DEV) ## Drive a running service with a realistic mix, bounded, with thresholds and a report
	@mkdir -p $(REPORTS)
	$(BIN)/python -m loadtests

check: lint types test ## What must hold before a commit lands

docs: $(INSTALLED_DEV) ## Write docs/configuration.md from the settings, and the events of docs/audit.md
	$(BIN)/python -m service.settings_page
	$(BIN)/python -m service.audit_page

lock: $(INSTALLED_DEV) ## Resolve the dependencies anew into requirements/*.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		--extra embedded --extra build pyproject.toml -o requirements/run.txt $(LOCK_OPTIONS)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		--extra dev --constraint requirements/run.txt pyproject.toml -o requirements/dev.txt $(LOCK_OPTIONS)

clean: ## Remove what was built and installed, not the data in .kasbah
	rm -rf $(VENV) build dist $(REPORTS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
