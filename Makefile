# Everything runs in .venv, which is made on first use and again when the dependencies change.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
# TensorFlow's C++ side logs warnings that concern its developers.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help setup demo lint test test-quick test-all test-versions test-arm64 dist release docs docs-serve docs-check notebooks clean
.DEFAULT_GOAL := help

help:  ## Shows this list.
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP)  ## Creates .venv with force_tf and all its extras.

$(STAMP): setup.cfg pyproject.toml
	@echo "Installing force_tf and its dependencies into .venv, which takes some minutes …"
	@$(PYTHON) -m venv .venv
	@# "compat": else Python, started beside a checkout that is named force_tf, takes that folder for the package.
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
		--config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## Prunes, trains and exports a small network on scikit-learn's digits.
	@$(BIN)/python examples/quickstart.py

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

test: lint  ## Checks the style and runs the tests.
	@$(BIN)/python -m pytest -q -n $(WORKERS)

test-quick: $(STAMP)  ## Runs in some two minutes what to run between edits.
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow and not long"

test-versions:  ## Runs a part of the tests on other versions of Python, TensorFlow and Keras.
	@$(PYTHON) tools/test_versions.py $(COMBINATIONS)

test-arm64: $(STAMP)  ## Runs exported files on emulated Arm and on x86 without AVX; needs Debian and root.
	@$(BIN)/python tools/setup_emulators.py .emulators
	@FORCE_TF_EMULATORS=.emulators $(BIN)/python -m pytest -q -n $(WORKERS) -m "slow or not slow" tests/export/test_emulated.py

test-all: lint  ## Checks the style and runs all tests, the slow ones included.
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "slow or not slow"

docs: $(STAMP) notebooks  ## Builds the site into site/; a broken link or an undocumented name is an error.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@$(BIN)/python -m pytest -q tests/project/test_site.py -k "not builds and not faults"

docs-serve: $(STAMP) notebooks  ## Shows the site at http://127.0.0.1:8000 and builds it again when a page changes.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

docs-check: docs  ## Looks at every page in Chromium, in the widths of a desktop and a phone, light and dark.
	@$(BIN)/python tools/look_at_site.py site
	@$(BIN)/python tools/look_at_site.py site --dark

notebooks: $(STAMP)  ## Runs the notebooks that have changed, and writes them with their outputs into docs/notebooks/.
	@$(BIN)/python tools/build_notebooks.py

dist: $(STAMP)  ## Builds wheel and sdist into dist/, checks them, and runs the README's code in a clean environment.
	@rm -rf dist build
	@$(BIN)/python -m build --outdir dist . > /dev/null
	@$(BIN)/python -m twine check --strict dist/*
	@$(BIN)/python tools/check_dist.py dist

release: $(STAMP)  ## Checks that versions, changelog, documentation and tag agree, and then all that `make dist` checks.
	@$(BIN)/python tools/check_release.py
	@$(MAKE) --no-print-directory dist

clean:  ## Removes .venv and everything else that is generated.
	rm -rf .venv .versions .emulators build dist site docs/notebooks *.egg-info .pytest_cache .ruff_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
