# make demo   the main job on real CT, shown in demo/index.html
# make test   all tests
# Both create .venv and install into it first; nothing but Python 3.10 to 3.13 is needed.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# One process a core, at most four; PYTEST_ARGS="-n 0" runs the tests in one.
PYTEST := -m pytest -n auto --maxprocesses 4 --dist worksteal
DEMO_ARGS ?=

.PHONY: help demo test test-fast test-beam lint types docs build format install lock audit clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP)  ## stylize real CT slices, serve the model, write demo/index.html
	$(PY) -m studies.demo $(DEMO_ARGS)

test: $(STAMP)  ## run all tests (PYTEST_ARGS="-k dicom" picks some)
	$(PY) $(PYTEST) $(PYTEST_ARGS)

test-fast: $(STAMP)  ## run the tests that are neither slow nor start processes and servers
	$(PY) $(PYTEST) -m "not slow and not integration" $(PYTEST_ARGS)

test-beam:  ## run the tests of tfstyle[beam] in .venv-beam: Beam needs an older protobuf than `dev`
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV)-beam beam
	$(VENV)-beam/bin/python -m pip install --quiet pytest hypothesis
	$(VENV)-beam/bin/python -m pytest tests/beam $(PYTEST_ARGS)

lint: $(STAMP)  ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(STAMP)  ## check the type hints
	$(PY) -m mypy

docs: $(STAMP)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

build: $(STAMP)  ## build the wheel and the sdist into dist/
	$(PY) -m pip install --quiet build
	$(PY) -m build

format: $(STAMP)  ## put every file into ruff's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Exact versions with hashes for Python 3.11; see SECURITY.md.
LOCK := --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"

lock: $(STAMP)  ## pin all dependencies in requirements/ (LOCK_ARGS=--upgrade for newer ones)
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile pyproject.toml --extra deidentify --extra dicom-seg --extra serving $(LOCK) $(LOCK_ARGS) \
		--quiet -o requirements/lock-py311.txt
	$(PY) -m uv pip compile pyproject.toml --extra dev --extra demo $(LOCK) $(LOCK_ARGS) \
		--quiet -o requirements/lock-dev-py311.txt

audit: $(STAMP)  ## look the pinned dependencies up among known vulnerabilities
	$(PY) -m pip install --quiet pip-audit
	$(PY) -m pip_audit --require-hashes --disable-pip -r requirements/lock-py311.txt

install: $(STAMP)  ## create .venv and install tfstyle with all that development needs

$(STAMP): pyproject.toml setup.py scripts/venv.sh
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV) dev,demo
	@touch $@

clean:  ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) $(VENV)-beam demo site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
