# Two commands: `make demo` and `make test`. They need python3.11 (or 3.12) with pip and venv, nothing else.
# Run from any directory: make -C /path/to/tatara demo

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
LOCKS := $(ROOT)/cluster/images
RECIPE ?= jobs/recipes/quickstart.yaml
PROMPT ?= What is 23 + 45?
KEEP ?=
CORPUS ?=
TEST_WORKERS ?= 2
COVERAGE ?=
export HF_HUB_OFFLINE = 1
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.ONESHELL:
.DEFAULT_GOAL := help

# Says what it does, then how long it took: $(call step,what,commands)
define step
echo "==> $(1)"; started=$$SECONDS
cd '$(ROOT)'
$(2)
echo "<== $(1): $$((SECONDS - started)) s"
endef

.PHONY: help
help:
	@echo "make demo    from raw text to an answered HTTP request (KEEP=1 leaves it serving, CORPUS=... takes your text)"
	@echo "make test    linters, types, import floors and the whole test suite (COVERAGE=1 says which lines ran)"
	@echo "make install | lint | format | types | floors | bench | lock | clean"

$(VENV)/.tatara-cpu: $(LOCKS)/cpu.lock $(ROOT)/pyproject.toml
	@$(call step,install the locked dependencies into .venv,$(install_cpu))

$(VENV)/.tatara-test: $(VENV)/.tatara-cpu $(LOCKS)/test.lock
	@$(call step,install the test tools into .venv,$(install_test))

define install_cpu
test -x '$(BIN)/python' || '$(PYTHON)' -m venv '$(VENV)'
'$(BIN)/python' -m pip install --quiet --disable-pip-version-check --no-deps -r '$(LOCKS)/cpu.lock' \
	|| { echo "The install failed. If torch was not found: the lock wants the CPU build of torch; set PIP_EXTRA_INDEX_URL to" \
	"the index that PyTorch's installation page names for Linux, pip, CPU, and run make again." >&2; exit 1; }
'$(BIN)/python' -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e '$(ROOT)'
touch '$@'
endef

define install_test
'$(BIN)/python' -m pip install --quiet --disable-pip-version-check --no-deps -r '$(LOCKS)/test.lock'
touch '$@'
endef

.PHONY: install demo test lint format types floors bench lock clean
install: $(VENV)/.tatara-cpu

demo: install
	@$(call step,run $(RECIPE),'$(BIN)/tatara' run '$(RECIPE)' $(if $(CORPUS),--corpus '$(CORPUS)'))
	@$(call step,serve the model and ask it over HTTP,'$(BIN)/tatara' serve --recipe '$(RECIPE)' --ask '$(PROMPT)' $(if $(KEEP),--keep))

lint: $(VENV)/.tatara-test
	@$(call step,lint,'$(BIN)/ruff' check . && '$(BIN)/ruff' format --check .)

format: $(VENV)/.tatara-test
	@$(call step,format,'$(BIN)/ruff' check --fix . && '$(BIN)/ruff' format .)

types: $(VENV)/.tatara-test
	@$(call step,check types,'$(BIN)/mypy')

floors: $(VENV)/.tatara-test
	@$(call step,check import floors,'$(BIN)/lint-imports' --no-cache)

test: lint types floors
	@$(call step,run the test suite,$(run_tests))

# What computes runs first, then what mostly waits for clusters and servers to start; both on two workers. PYTEST_ARGS chooses, in one run. COVERAGE=1 also
# measures which lines ran, which costs the tests of pure Python a good part of their time again.
define run_tests
$(if $(PYTEST_ARGS),'$(BIN)/python' -m pytest $(PYTEST_ARGS),$(run_all_tests))
endef

define run_all_tests
'$(BIN)/python' -m pytest -n $(TEST_WORKERS) --dist loadfile -m 'not alone' $(if $(COVERAGE),--cov --cov-report=)
'$(BIN)/python' -m pytest -n $(TEST_WORKERS) --dist loadfile -m alone $(if $(COVERAGE),--cov --cov-append --cov-report=term:skip-covered)
endef

bench: $(VENV)/.tatara-cpu
	@$(call step,benchmarks,for script in tests/benchmarks/bench_*.py; do echo "--- $$script"; '$(BIN)/python' "$$script"; done)

lock: $(VENV)/.tatara-test
	@$(call step,resolve the locks,UV='$(BIN)/uv' cluster/images/lock.sh)

clean:
	@cd '$(ROOT)' && rm -rf .venv .tatara build dist *.egg-info platform/*.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
