# `make demo` and `make test` set up what they need; nothing outside this folder is touched.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: demo test lint notebooks train clean

demo: $(VENV)/.core
	$(BIN)/python -m nmg demo --out outputs

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.test
	$(BIN)/python tests/notebooks.py nmg_*.ipynb

train: $(VENV)/.core
	$(BIN)/python -m nmg.menagerie.train

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: an install runs again only when the project's requirements change.
$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) outputs build dist *.egg-info
