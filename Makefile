# Revo needs make, git and a Python >= 3.11; everything else is in .venv, which `make setup` makes.
.DEFAULT_GOAL := help
.PHONY: help setup check test demo image compose-up compose-down compose-test k8s-test lock clean
MAKEFLAGS += --no-print-directory
# Images set it to stay small. Here it would have each of the thousand interpreters of a test run compile all of Revo again.
unexport PYTHONDONTWRITEBYTECODE

# PYTHON=python3.13 make setup chooses one; otherwise the first that is new enough.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
else
CHOSEN := --this-python
endif

BIN := .venv/bin
# Workers for the tests: 4 by default, for most of the time they wait, none with PYTEST_WORKERS=0. Tests of one xdist_group run one after the other.
PYTEST_WORKERS ?= 4
PYTEST_ARGS ?=
IMAGE ?= revo:0.1.0
DOCKER_BUILD_ARGS ?=

help:  ## show this
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  \1	\2/p' Makefile | expand -t 16

setup:  ## make or update .venv from requirements/lock.txt, and what the example on Node stands on
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Revo needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' is not; try: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" tools/setup_venv.py $(CHOSEN)
	@$(BIN)/python tools/setup_node.py

check: setup  ## lint, format, types, layers, lock, vulnerabilities; all of them, also when one fails
	@exec $(BIN)/python tools/check.py

test: setup  ## run the tests; PYTEST_ARGS="-k redelivery", PYTEST_WORKERS=0
	@exec $(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

demo: setup  ## start a mesh with its agents and let them work; DEMO_PATH=... names what they look at
	@exec $(BIN)/revo demo

image:  ## build the image of the actors; IMAGE=revo:0.1.0, DOCKER_BUILD_ARGS="--build-arg ..."
	docker build $(DOCKER_BUILD_ARGS) -t $(IMAGE) .

compose-up: setup  ## start the mesh of docker-compose.yml, with keys made for it
	@exec $(BIN)/python -m tests.deploy.compose up

compose-down: setup  ## end it; streams and keys stay
	@exec $(BIN)/python -m tests.deploy.compose down

compose-test: setup  ## prove with docker-compose that a killed container loses nothing
	@exec $(BIN)/python -m tests.deploy.compose test

k8s-test: setup  ## prove it with pods, in the cluster of kubectl's current context
	@exec $(BIN)/python -m tests.deploy.k8s

lock: setup  ## write requirements/*.txt anew from pyproject.toml; UPGRADE=--upgrade takes newer versions
	@echo 'lock: resolving ...'
	@compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes"; \
	compile="$$compile --no-emit-index-url --no-emit-find-links --no-annotate --no-header $(UPGRADE)"; \
	$$compile pyproject.toml --group dev --output-file requirements/lock.txt && \
	$$compile pyproject.toml --constraints requirements/lock.txt --output-file requirements/runtime.txt && \
	$(BIN)/python tools/check_lock.py --build-requires | \
		$$compile - --constraints requirements/lock.txt --output-file requirements/build.txt
	@$(BIN)/python tools/check_lock.py --write
	@echo 'lock: requirements/*.txt are written; `make setup` installs them'

clean:  ## delete .venv, caches and builds; not .revo
	rm -rf .venv build dist .coverage htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
