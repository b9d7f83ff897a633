# Both targets do all their own set-up: a virtual environment with pinned versions, then the job.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint
demo: setup
	$(BIN)/palate demo

# A process per core with one thread each: small networks gain nothing from more.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: .venv/ready
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready
