# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
THREADS ?= 2
export OMP_NUM_THREADS = $(THREADS)
export OPENBLAS_NUM_THREADS = $(THREADS)
# Threads that wait give the core away: on a machine that is busy otherwise, spinning costs minutes.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test quick lint types docs package bench bench-quick clean

demo: .venv/demo
	$(BIN)/python benchmarks/demo.py

test: .venv/test
	$(BIN)/pytest tests
	$(BIN)/pytest --nbmake --nbmake-timeout=600 tutorials

quick: .venv/test
	$(BIN)/pytest -m "not slow" tests

lint: .venv/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/lint
	$(BIN)/mypy

docs: .venv/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Wheel and sdist, and whether the wheel works in an environment with nothing else in it.
package: .venv/package
	rm -rf dist build/alone
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m venv build/alone
	build/alone/bin/pip install -q dist/*.whl -c constraints.txt
	cd build && alone/bin/python ../benchmarks/quickstart.py

# Every method on every task: about an hour. docs/benchmarks.md is made of what it measures.
bench: .venv/bench
	$(BIN)/python benchmarks/side_by_side.py

# A fold of each data set and the methods that take seconds: minutes.
bench-quick: .venv/bench
	$(BIN)/python benchmarks/side_by_side.py --quick

clean:
	rm -rf .venv demo dist build/alone docs/_build docs/tutorials docs/generated

# torch comes first: its pinned build is for the CPU, and what follows must not fetch another.
.venv/torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install -q "pip>=25.1" -c constraints.txt
	$(BIN)/pip install -q torch -c constraints.txt
	@touch $@

.venv/demo: .venv/torch pyproject.toml
	$(BIN)/pip install -q -e ".[demo]" -c constraints.txt
	@touch $@

.venv/test: .venv/demo
	$(BIN)/pip install -q --group test -c constraints.txt
	@touch $@

.venv/bench: .venv/demo
	$(BIN)/pip install -q -e ".[demo,bench]" -c constraints.txt
	@touch $@

.venv/package: .venv/torch pyproject.toml
	$(BIN)/pip install -q --group package -c constraints.txt
	@touch $@

.venv/lint: .venv/demo
	$(BIN)/pip install -q --group lint -c constraints.txt
	@touch $@

.venv/docs: .venv/demo
	$(BIN)/pip install -q -e ".[demo,docs]" -c constraints.txt
	@touch $@
