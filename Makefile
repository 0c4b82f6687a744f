# `make demo` and `make test` set up what they need; nothing outside this folder is touched.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Tests run in several processes of one thread each; one that is done takes over what another has left.
SHARED := --numprocesses $(JOBS) --dist worksteal

.PHONY: demo test test-oldest test-browser fuzz lint notebooks docs train clean

demo: $(VENV)/.core
	$(BIN)/python -m nmg demo --out outputs

test: $(VENV)/.test
	$(BIN)/python -m pytest $(SHARED)

# The oldest supported versions, in an environment of their own, without the slow tests and the notebooks.
test-oldest: $(VENV)-oldest/.test
	$(VENV)-oldest/bin/python -m pytest $(SHARED) -m 'not slow and not notebook' --ignore tests/test_reference.py

# The notebooks' panels in chromium, which must be on the machine (Debian: apt-get install chromium).
test-browser: $(VENV)/.test
	$(PIP) install -q -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -rs -m browser tests/lab/panel

# Thousands of wrong inputs and interrupts, minutes; a small part is among the tests.
fuzz: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m scripts.fuzz --jobs $(JOBS) --out docs/robustness.md

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(VENV)/.test
	$(BIN)/python tests/notebooks.py nmg_*.ipynb

# The site: open build/site/index.html, or `python -m http.server --directory build/site`, whose pages can be searched.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

train: $(VENV)/.core
	$(BIN)/python -m scripts.train

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: an install runs again only when the project's requirements change.
$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing the package and what it needs into $(VENV) (a few minutes, once) …"
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing the package and its tests' needs into $(VENV) (a few minutes, once) …"
	$(PIP) install -q -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.test
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)-oldest/.test: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip --disable-pip-version-check install -q -c constraints-oldest.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest outputs build dist *.egg-info
