# What a fresh machine needs: `make demo` and `make test` do all the set-up by themselves.
.POSIX:
SHELL = /bin/sh
.SUFFIXES:
.DEFAULT_GOAL := help

BIN = .venv/bin
VENV_PYTHON = $(BIN)/python
DEMO = examples/tiny/demo.yaml
TESTS = tests
MINUTES = 30
SECONDS = 60
GUARDS =

.PHONY: help setup demo data test test-all fuzz guards faults soak lint lint-deploy protos lock docs clean

help: ## this list
	@echo "make TARGET, with TARGET one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' Makefile | expand -t 16

setup: ## .venv with everything (PYTHON=python3.12 picks the interpreter, PIP_ARGS=... goes to pip)
	@PIP_ARGS="$(PIP_ARGS)" PYTHON="$(PYTHON)" tools/setup.sh

data: setup ## the tiny world's audio and questions
	@PYTHONPATH=examples/tiny $(VENV_PYTHON) -m tinyworld data

demo: data ## the whole system on this machine, a live view, then the report (XOPD_ variables pass through)
	$(BIN)/xopd up $(DEMO) --overwrite

test: data ## the tests, less those that take minutes each (TESTS=tests/unit for a part)
	$(VENV_PYTHON) -m pytest -m 'not long' $(TESTS) $(PYTEST_ARGS)

test-all: data ## all tests
	$(VENV_PYTHON) -m pytest $(TESTS) $(PYTEST_ARGS)

fuzz: setup ## fuzz the wire's decoders (SECONDS=600; what breaks one is kept in .cache/fuzz)
	$(VENV_PYTHON) -m tests.fuzz.target --seconds $(SECONDS)

guards: setup ## take out each guard against hostile input in turn: does a test miss it? (GUARDS=xopd/data/audio.py)
	$(VENV_PYTHON) tools/guards.py $(GUARDS)

faults: data ## every kind of fault on a local run, and the table of docs/RELIABILITY.md
	$(VENV_PYTHON) tools/faults.py

soak: data ## half an hour of training on this machine: is memory flat? (MINUTES=30)
	$(VENV_PYTHON) tools/soak.py $(MINUTES)

lint: setup ## ruff, mypy, bandit, buf, generated code, requirement sets and their vulnerabilities, forbidden strings
	@tools/lint.sh

lint-deploy: setup ## Dockerfiles, compose, Kubernetes overlays and Prometheus's files, without deploying them
	$(VENV_PYTHON) tools/lint_deploy.py

protos: setup ## regenerate xopd/v1 from protos/
	$(VENV_PYTHON) tools/protos.py

lock: setup ## regenerate the pinned requirement sets from requirements/roots.toml
	$(VENV_PYTHON) requirements/lock.py

docs: setup ## regenerate docs/CONFIG.md, docs/METRICS.md and the dashboards
	$(BIN)/xopd config reference > docs/CONFIG.md.new
	mv docs/CONFIG.md.new docs/CONFIG.md
	$(VENV_PYTHON) tools/metrics_page.py
	$(VENV_PYTHON) tools/dashboards.py

clean: ## caches, builds and the tiny world's data; runs/ and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache build dist *.egg-info services/*/*.egg-info examples/tiny/data
	find xopd services tests examples requirements tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
