# Two commands on a fresh machine: `make demo` and `make test`.
# PYTHON names an interpreter; without it the newest supported one of the machine is taken, when the environment is made.
PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that tests run in, and the threads of each.
JOBS ?= 2
THREADS ?= 1
export OMP_NUM_THREADS = $(THREADS)
export OPENBLAS_NUM_THREADS = $(THREADS)
# Threads that wait give the core away: on a machine that is busy otherwise, spinning costs minutes.
export OMP_WAIT_POLICY = PASSIVE
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal
INSTALL := sh scripts/install.sh $(VENV)

.PHONY: demo test quick tutorials lint types docs package bench bench-quick clean

demo: THREADS = 2
demo: $(VENV)/demo
	PYTHONPATH=benchmarks $(BIN)/python scripts/demo.py

test: $(VENV)/test
	$(PYTEST) tests

quick: $(VENV)/test
	$(PYTEST) -m "not slow" tests

# Each tutorial is run from beginning to end.
tutorials: THREADS = 2
tutorials: $(VENV)/motifs
	$(BIN)/pytest --nbmake --nbmake-timeout=600 tutorials

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/lint
	$(BIN)/mypy

docs: THREADS = 2
docs: $(VENV)/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Wheel and sdist, and whether the wheel works with nothing but its dependencies: not this folder, and no extra of it.
package: $(VENV)/package
	rm -rf dist build/alone
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m venv build/alone
	sh scripts/install.sh build/alone dist/*.whl -c constraints.txt
	cd build && alone/bin/python ../scripts/quickstart.py
	rm -rf build/alone

# Every method on every task: about an hour. docs/benchmarks.md is made of what it measures.
bench: THREADS = 2
bench: $(VENV)/bench
	$(BIN)/python benchmarks/side_by_side.py

# A fold of each data set and the methods that take seconds: minutes.
bench-quick: THREADS = 2
bench-quick: $(VENV)/bench
	$(BIN)/python benchmarks/side_by_side.py --quick

clean:
	rm -rf $(VENV) demo dist build/alone docs/_build docs/tutorials docs/generated

# An environment of a Python that is no longer supported is made anew.
$(VENV)/torch: constraints.txt
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null || { \
	  python="$(PYTHON)"; test -n "$$python" || python=$$(sh scripts/find_python.sh) || exit 1; \
	  "$$python" -m venv --clear $(VENV); }
	@$(INSTALL) "pip>=25.1" -c constraints.txt
	@$(INSTALL) torch -c constraints.txt
	@touch $@

$(VENV)/demo: $(VENV)/torch pyproject.toml
	@$(INSTALL) -e ".[demo]" -c constraints.txt
	@touch $@

$(VENV)/test: $(VENV)/demo
	@$(INSTALL) --group test -c constraints.txt
	@touch $@

# Apart from the tests: decoupler brings pyarrow, with which pandas stores text in another way.
$(VENV)/motifs: $(VENV)/test
	@$(INSTALL) -e ".[demo,motifs]" -c constraints.txt
	@touch $@

$(VENV)/bench: $(VENV)/demo
	@$(INSTALL) -e ".[demo,bench]" -c constraints.txt
	@touch $@

$(VENV)/package: $(VENV)/torch pyproject.toml
	@$(INSTALL) --group package -c constraints.txt
	@touch $@

$(VENV)/lint: $(VENV)/demo
	@$(INSTALL) --group lint -c constraints.txt
	@touch $@

$(VENV)/docs: $(VENV)/demo
	@$(INSTALL) -e ".[demo,motifs]" --group doc -c constraints.txt
	@touch $@
