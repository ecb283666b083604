# make bench   a leaderboard from nothing: environment, five generated tasks, two attacks, six defenses
# make test    the whole test suite
# make test-long   what the README shows and the benchmarks measure, at full size
# make test-fuzz   thousands of generated data files, model folders, command lines and damaged records (about 5 minutes)
# make test-faults   one matrix through twenty kills of workers and drivers
# make clean   remove the environment, the quick results and the stored victims

PYTHON ?= python3
VENV := .venv
BDBENCH := $(VENV)/bin/bdbench

.PHONY: bench test test-long test-fuzz test-faults lint clean

bench: $(VENV)/.bench
	$(BDBENCH) run --preset quick
	@cat results/quick/leaderboard.md

# processes that run the suite; each takes a core and up to 2 GB
JOBS ?= 2

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.test
	BDBENCH_LONG=1 $(VENV)/bin/python -m pytest tests/test_readme.py tests/test_perf.py

# examples of each of the nine kinds
FUZZ ?= 600

test-fuzz: $(VENV)/.test
	BDBENCH_FUZZ=$(FUZZ) $(VENV)/bin/python -m pytest tests/test_fuzz.py

# workers and drivers that are killed
KILLS ?= 20

test-faults: $(VENV)/.test
	BDBENCH_FAULTS=$(KILLS) $(VENV)/bin/python -m pytest -s tests/test_faults.py tests/test_cluster.py tests/test_disk.py

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
