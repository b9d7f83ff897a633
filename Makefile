# Both targets do all their own set-up: a virtual environment with pinned versions, then the job.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-lowest setup lint
demo: setup
	$(BIN)/palate demo

# A process per core with one thread each: small networks gain nothing from more.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile

# The quick core of the tests with the lowest versions that pyproject.toml allows, in an environment of its own.
CORE := tests/objectives tests/labels tests/parity tests/data tests/audits tests/cli tests/encoding/test_cache.py \
	tests/backbones/test_every_family.py tests/backbones/test_unet_families.py tests/judges/test_reward_models.py \
	tests/training/test_train.py tests/training/test_methods.py tests/sharing/test_export.py tests/reports tests/web/test_votes.py \
	tests/web/test_server.py
test-lowest: .venv-lowest/ready
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses logical --dist loadfile $(CORE)

.venv-lowest/ready: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[test]'
	touch .venv-lowest/ready

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: .venv/ready
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready
