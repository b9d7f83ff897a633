# Both targets do all their own set-up: a virtual environment with pinned versions, then the job.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint
demo: setup
	$(BIN)/palate demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

setup: .venv/ready
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready
