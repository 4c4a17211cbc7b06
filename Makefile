# make lab            open the lessons in JupyterLab
# make test           run all tests: style, shipped models, notebooks, package
# make test-kernels   run the numeric tests again as on a CPU that rounds in another way
# make test-oldest    run the package's tests with the oldest versions that it accepts (8 GB)
# make build          rebuild notebooks, figures and docs from their sources, and docs/_build, their site
# make clean          remove .venv, .venv-oldest and docs/_build
#
# The first run sets up .venv; later runs start at once, until requirements.txt or pyproject.toml
# changes. Another Python: make lab PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log
REQUIREMENTS := requirements.txt
# Kibibytes that a first set-up needs: PyTorch takes most of them.
DISK_KIB := 3000000

.PHONY: help lab test test-kernels test-oldest test-package build clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# notebooks/.jupyter lets JupyterLab open README.md, as a page; it writes into no one's settings.
# Jupyter refuses root unless told; in a container there is often no one else.
lab: $(STAMP)
	@echo "Opening JupyterLab in notebooks/, at its README. Ctrl-C twice ends it."
	@cd notebooks && JUPYTER_CONFIG_PATH=.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH} \
	  ../$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root)

test: $(STAMP)
	@echo "1/4 style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "2/4 shipped models"
	@$(BIN)/python -m rlhf_lessons models verify
	@echo "3/4 notebooks are built from their sources"
	@$(BIN)/python notebooks/build.py --verify
	@echo "4/4 tests (about ten minutes on two cores)"
	@$(BIN)/python -m pytest -n auto --dist loadfile

# Plain kernels of torch, MKL without AVX-512, oneDNN without AMX: sums come in another order.
OTHER_KERNELS := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2
NUMERIC_TESTS := tests/formulas tests/worlds tests/models tests/training tests/evaluation

test-kernels: $(STAMP)
	@echo "numeric tests with other CPU kernels (three minutes on two cores)"
	@$(OTHER_KERNELS) $(BIN)/python -m pytest -n auto --dist loadfile $(NUMERIC_TESTS)

test-oldest:
	@$(MAKE) --no-print-directory test-package VENV=.venv-oldest REQUIREMENTS=requirements-oldest.txt DISK_KIB=8000000

test-package: $(STAMP)
	@echo "the package's tests in $(VENV) (five minutes on two cores)"
	@$(BIN)/python -m pytest -n auto --dist loadfile $(NUMERIC_TESTS) tests/test_whole_files.py tests/test_examples.py

build: $(STAMP)
	@$(BIN)/python notebooks/build.py
	@$(BIN)/python docs/build.py
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . docs/_build
	@echo "docs/_build/index.html"

clean:
	@rm -rf .venv .venv-oldest docs/_build
	@echo "Removed .venv, .venv-oldest and docs/_build."

# Each check says what is missing and what to do; a set-up that stopped half-way is taken up again.
$(STAMP): $(REQUIREMENTS) pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "No '$(PYTHON)' found. Install Python 3.11 or newer, or name one: make lab PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name a newer one: make lab PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's 'venv' module is missing. On Debian and Ubuntu: sudo apt install python3-venv. Then run make again."; exit 1; }
	@[ -d $(VENV) ] || [ "$$(df -Pk . | awk 'NR == 2 { print $$4 }')" -ge $(DISK_KIB) ] || { \
	  echo "The set-up needs about $$(( $(DISK_KIB) / 1000000 )) GB; this disk has $$(df -Ph . | awk 'NR == 2 { print $$4 }') free. Make room, then run make again."; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes, most of it PyTorch)."
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV) || { \
	  echo "Could not create $(VENV): is this folder writable, is the disk full?"; exit 1; }
	@rm -f $(LOG)
	@{ $(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --log $(LOG) -r $(REQUIREMENTS) \
	  && $(BIN)/python -m pip install --disable-pip-version-check --quiet --log $(LOG) --no-deps --editable .; } || { \
	  echo; \
	  if grep -qi 'no space left' $(LOG) 2>/dev/null; then \
	    echo "The disk is full. Make room (about $$(( $(DISK_KIB) / 1000000 )) GB), then run make again: it goes on where it stopped."; \
	  elif grep -qiE 'NewConnectionError|NameResolutionError|name resolution|timed out|unreachable|Could not fetch URL' $(LOG) 2>/dev/null; then \
	    echo "The packages could not be fetched: no network, or a proxy in between. Connect, then run make again."; \
	  else \
	    echo "pip could not install the packages; its messages are above and in $(LOG)."; \
	  fi; exit 1; }
	@touch $@
	@echo "Set up."
