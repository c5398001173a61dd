# make demo   the main job on real CT, shown in demo/index.html
# make test   all tests
# Both create .venv and install into it first; nothing but Python 3.10 to 3.13 is needed.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
DEMO_ARGS ?=

.PHONY: help demo test test-beam lint format install clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP)  ## stylize real CT slices, serve the model, write demo/index.html
	$(PY) scripts/demo.py $(DEMO_ARGS)

test: $(STAMP)  ## run all tests (PYTEST_ARGS="-k dicom" picks some)
	$(PY) -m pytest $(PYTEST_ARGS)

test-beam:  ## run the tests of tfstyle[beam] in .venv-beam: Beam needs an older protobuf than `dev`
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV)-beam beam
	$(VENV)-beam/bin/python -m pip install --quiet pytest hypothesis
	$(VENV)-beam/bin/python -m pytest tests/beam $(PYTEST_ARGS)

lint: $(STAMP)  ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)  ## put every file into ruff's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

install: $(STAMP)  ## create .venv and install tfstyle with all that development needs

$(STAMP): pyproject.toml setup.py scripts/venv.sh
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV) dev,demo
	@touch $@

clean:  ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) $(VENV)-beam demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
