# make demo    train and attack a small net without and with TIP, save demo.png
# make test    lint, types and every test
# make test-fuzz    random calls against a model of the contract, ten thousand for each property
# make bench   the speed tables
# make study   every attacker against every defence: docs/privacy.md
# A fresh machine with Python 3.10+ is enough; a C++17 compiler gives the fast path.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fuzz bench study clean

demo: $(VENV)/ready
	$(BIN)/python -m bench.demo

test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto

test-fuzz: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --hypothesis-profile=fuzz --hypothesis-show-statistics tests/test_properties.py

bench: $(VENV)/ready
	$(BIN)/python -m bench.ratios
	$(BIN)/python -m pytest bench/bench_perturb.py --benchmark-only

study: $(VENV)/ready
	$(BIN)/python -m bench.privacy study
	$(BIN)/python -m bench.privacy tune --page docs/privacy.md
	$(BIN)/python -m bench.privacy federate --model small --clients 20 --sampled 5 --lr 0.1 --rounds 15 --page docs/privacy.md

# Without build isolation, because the library is built against the torch that is installed here.
$(VENV)/ready: setup.py pyproject.toml $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[bench,test]'
	touch $@

clean:
	rm -rf $(VENV) build tip_kernels/*.so
