# make demo    train with and without TIP, attack both, save demo.png   (a fresh machine is enough)
# make test    lint, types and every test
# make bench   the speed tables
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench clean

demo: $(VENV)/bench
	$(BIN)/python -m bench.demo

test: $(VENV)/bench $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(VENV)/bench
	$(BIN)/python -m bench.ratios
	$(BIN)/python -m pytest bench --benchmark-only

# One stamp file for each set of packages; sources rebuild the library.
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

$(VENV)/built: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-build-isolation --editable .
	touch $@

$(VENV)/bench $(VENV)/test: $(VENV)/built
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[$(@F)]'
	touch $@

clean:
	rm -rf $(VENV) build tip_kernels/*.so
