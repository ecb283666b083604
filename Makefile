# make bench   a leaderboard from nothing: environment, five generated tasks, two attacks, six defenses
# make test    the whole test suite
# make clean   remove the environment, the quick results and the stored victims

PYTHON ?= python3
VENV := .venv
BDBENCH := $(VENV)/bin/bdbench

.PHONY: bench test lint clean

bench: $(VENV)/.bench
	$(BDBENCH) run --preset quick
	@cat results/quick/leaderboard.md

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.test
	$(VENV)/bin/python -m pip install -q -c constraints.txt ruff
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[bundled]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.bench

clean:
	rm -rf $(VENV) results/quick results/victims
