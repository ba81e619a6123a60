# Every target works in a fresh clone: the environment is built when it is missing or out of date.
# Needs Python 3.11 or newer with venv, git and make.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished

# The first of these that is new enough; `make setup PYTHON=/path/to/python` takes another.
PYTHONS := python3.11 python3 python3.12 python3.13 python3.14 python
PYTHON ?= $(shell for python in $(PYTHONS); do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && command -v "$$python" && break; done)

# The CPU build, which has a version of its own on Linux: a plain `torch` there is gigabytes of CUDA.
TORCH := 2.13.0
TORCH_CPU := torch==$(TORCH)$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What compiles engine/kernels: what `make setup CC=clang` names, the first of these that has the
# headers of the C library, or Zig, which comes as a wheel. A build that pip isolates must not hide
# the wheel (-I), and left to itself Zig compiles for the processor at hand alone (-mcpu=baseline).
KERNELS := $(wildcard engine/kernels/*.c)
COMPILERS := cc gcc clang
COMPILER = $(if $(filter default,$(origin CC)),$(shell for compiler in $(COMPILERS); do \
	"$$compiler" -E -x c -include math.h -include pthread.h /dev/null >/dev/null 2>&1 && \
	echo "$$compiler" && break; done),$(CC))
ZIG := $(BIN)/python -I -m ziglang cc -mcpu=baseline

ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check format openapi docs soak load kills fuzz chaos paper heads coverage rates outliers pictures serve audit clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r target text; do \
	printf '  make %-8s %s\n' "$$target" "$$text"; done

setup: $(READY) ## Build .venv with everything that running and testing need

demo: $(READY) ## Upload, train and predict on two real data sets over HTTP; plots go to demo/
	$(BIN)/python -m bench.demo

test: $(READY) ## Run the tests; ARGS="tests/engine -k dropout" chooses some
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(ARGS)

check: $(READY) ## Check style, types, imports, the OpenAPI file and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bernoulli openapi | diff -u openapi/openapi.json - || \
	{ echo 'openapi/openapi.json is out of date: run `make openapi`' >&2; exit 1; }
	$(BIN)/hadolint Dockerfile

format: $(READY) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: $(READY) ## Write openapi/openapi.json from the code
	mkdir -p openapi
	$(BIN)/bernoulli openapi > openapi/.new && mv openapi/.new openapi/openapi.json

docs: $(READY) ## Write the tables of docs/theanets.md from tests/theanets/rows.yaml
	$(BIN)/python -m tests.theanets.page

soak: $(READY) ## 200 clients for a minute, each answer compared with its lone twin
	$(BIN)/python -m bench.soak $(ARGS)

load: $(READY) ## A mixed load for ten minutes: rates, times, memory; ARGS="--minutes 2" is shorter
	$(BIN)/python -m bench.load $(ARGS)

kills: $(READY) ## Kill one job 20 times, and a search in each phase; compare them with those left alone
	$(BIN)/python -m pytest tests/e2e -k again_and_again --kills=20 $(ARGS)

fuzz: $(READY) ## 100 000 requests at random, each answer looked at; ARGS="--cases 5000 --seed 7"
	$(BIN)/python -W ignore -m bench.fuzz $(ARGS)

chaos: $(READY) ## Ten minutes of mixed load under kills at any instant; ARGS="--minutes 2" is shorter
	$(BIN)/python -m bench.chaos $(ARGS)

DATA ?= data/uci

paper: $(READY) ## Four UCI sets by a published protocol; DATA=folder has them, ARGS="--epochs 4000"
	$(BIN)/python -m bench.paper --data $(DATA) $(ARGS)

heads: $(READY) ## The same sets with learnt noise, one network and five; DATA=folder, ARGS="--sets boston --scores FILE"
	$(BIN)/python -m bench.heads --data $(DATA) $(ARGS)

coverage: $(READY) ## What calibrated intervals and sets cover on real sets; DATA=folder adds regressions, ARGS="--splits 50"
	$(BIN)/python -m bench.coverage $(if $(wildcard $(DATA)),--data $(DATA)) $(ARGS)

rates: $(READY) ## Rates of dropout by a search or learnt, on those sets; DATA=folder, ARGS="--set wine"
	$(BIN)/python -m bench.rates --data $(DATA) $(ARGS)

outliers: $(READY) ## What a classifier says of digits, and of images that it has never seen
	$(BIN)/python -m bench.outliers $(ARGS)

pictures: $(READY) ## Draw the pictures of docs/uncertainty.md from answers of the service
	$(BIN)/python -m bench.pictures $(ARGS)

serve: $(READY) ## Start the service; ARGS="--port 9000" passes flags
	$(BIN)/bernoulli serve $(ARGS)

# In an environment of its own, so that it is not among what it looks at; --strict, so that a library
# which could not be asked about is no success.
audit: $(READY) ## Ask the index of known vulnerabilities about the installed libraries
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && \
	build/audit/bin/pip --disable-pip-version-check --quiet install 'pip-audit>=2.9,<3'; }
	$(BIN)/python -m pip --disable-pip-version-check freeze --exclude-editable | \
	sed 's/+cpu$$//; /^-e /d; / @ /d' > build/audit/requirements.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip \
	--requirement build/audit/requirements.txt

clean: ## Remove the environment and all that was made; data/ stays
	rm -rf $(VENV) *.egg-info build dist demo .coverage .hypothesis engine/kernels/*.so
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .grimp_cache .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An install that was interrupted leaves its mark, and the next one starts from nothing.
$(READY): pyproject.toml $(KERNELS)
	@test -n "$(PYTHON)" || { echo 'make: no Python 3.11 or newer with venv was found;' \
	'install one, or name it: make setup PYTHON=/path/to/python' >&2; exit 1; }
	@if test -e $(UNFINISHED); then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(UNFINISHED)
	@echo 'Installing into $(VENV); the first time this takes some minutes and about 1.5 GB'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install '$(TORCH_CPU)' || $(PIP) install --extra-index-url $(TORCH_INDEX) '$(TORCH_CPU)'
	$(if $(COMPILER),,$(PIP) install 'ziglang>=0.16,<1' || \
	echo 'make: there is no C compiler and none to be had; predictions will be right, but slower' >&2)
	CC='$(or $(COMPILER),$(ZIG))' LDSHARED='$(or $(COMPILER),$(ZIG)) -shared' \
	ZIG_GLOBAL_CACHE_DIR='$(CURDIR)/build/zig' $(PIP) install --editable . --group dev
	@rm -f $(UNFINISHED)
	@touch $@
