# make run · make test. Both set themselves up; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which build of torch: empty selects the registry's (on Linux with CUDA, about 3 GB). For the small CPU build set
# TORCH_FROM to pip's options for PyTorch's own CPU index, or to a folder with the wheel (--find-links FOLDER).
TORCH_FROM ?=
TORCH := torch==2.13.0
LOCK := environments/local/requirements.txt
LOCKED := uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
# Tests wait for servers as often as they calculate: two processes per core.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))')

unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-cli flow engine run test test-fast test-full coverage coverage-table lint lint-workflows bench reference lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

INSTALL := environments/install.py environments/uv.txt

$(VENV)/ready: $(LOCK) $(INSTALL) pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 run")'
	@echo "Installing into $(VENV), once; it takes one to five minutes." >&2
	@$(PYTHON) environments/install.py --into $(VENV) --torch "$(TORCH)" --torch-from '$(TORCH_FROM)' \
	  --requirements $(LOCK) --editable . --compile
	@touch $@

# A runner lives for minutes: it compiles only what it imports, in half the time.
$(VENV)/ready-cli: environments/cli/requirements.txt $(INSTALL) pyproject.toml Makefile
	@$(PYTHON) environments/install.py --into $(VENV) --requirements $< --editable .
	@touch $@

# Prompt flow pins packages that conflict with ours.
$(VENV)/flow/ready: components/chat_flow/requirements.txt $(INSTALL) Makefile
	@$(PYTHON) environments/install.py --into $(VENV)/flow --requirements $<
	@touch $@

# vLLM pins packages that conflict with ours. It also requires packages for images and sound, whose builds fit only one
# build of torch; a text model needs none of them. Importing it shows whether it works on this machine.
$(VENV)/engine/ready: environments/local/engine.txt $(INSTALL) Makefile
	@$(PYTHON) environments/install.py --into $(VENV)/engine --torch "$(TORCH)" --torch-from '$(TORCH_FROM)' \
	  --requirements $< --no-check --compile
	@$(VENV)/engine/bin/python -c 'import vllm.entrypoints.openai.api_server' 2>$(VENV)/engine/import.log \
	  || { tail -n 1 $(VENV)/engine/import.log >&2; echo "vLLM cannot be imported; see $(VENV)/engine/import.log" >&2; exit 1; }
	@touch $@

install: $(VENV)/ready ## everything that this machine needs to train, serve and test

install-cli: $(VENV)/ready-cli ## only what is needed to submit and deploy: no torch, no server

flow: $(VENV)/flow/ready ## Prompt flow, in its own environment

engine: $(VENV)/engine/ready ## vLLM for this machine's CPU, in its own environment: what a GPU deployment serves with

run: $(VENV)/ready ## chats in, a gated blue/green endpoint out, on this machine
	@$(BIN)/mlops run

test: $(VENV)/ready $(VENV)/flow/ready ## the whole test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/ready ## the tests that need no model and no daemon
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not full"

test-full: $(VENV)/ready $(VENV)/flow/ready ## the whole suite with the long tables
	@MLOPS_FULL=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

coverage: $(VENV)/ready $(VENV)/flow/ready ## the whole suite, with line coverage
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=

coverage-table: $(VENV)/ready ## the result of `make coverage`, in Markdown
	@$(BIN)/coverage report --format=markdown --skip-covered --sort=cover

lint: $(VENV)/ready lint-workflows ## style, types, import rules, workflows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy mlops components environments/serve tests .github/rules.py
	@PYTHONPATH=components $(BIN)/lint-imports
	@$(BIN)/vulture

lint-workflows: $(VENV)/ready ## what runs on GitHub: security, schemas, shell, our own rules
	@$(BIN)/zizmor --quiet --offline --persona auditor --strict-collection .
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-actions .github/actions/*/action.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(BIN)/python .github/rules.py

bench: $(VENV)/ready ## each benchmark prints its ratio against a baseline of the same run
	@for each in tests/benchmarks/*.py; do echo "== $$each"; $(BIN)/python "$$each" || exit 1; done

reference: $(VENV)/ready ## generate the command reference and the README's tables
	@$(BIN)/python -m mlops.cli.reference

lock: ## update the lock files (needs uv)
	@$(LOCKED) --universal --upgrade \
	  --override environments/local/no-torch.txt --override environments/local/no-gpu.txt \
	  environments/local/requirements.in -o environments/local/requirements.txt -q
	@for each in cli finetune serve; do \
	  $(LOCKED) --universal \
	    --override environments/local/no-torch.txt -c environments/local/requirements.txt \
	    environments/$$each/requirements.in -o environments/$$each/requirements.txt -q || exit 1; done
	@$(LOCKED) --python-platform x86_64-manylinux_2_28 --upgrade \
	  environments/serve/engine/requirements.in -o environments/serve/engine/requirements.txt -q
	@$(LOCKED) --universal --upgrade \
	  --override environments/local/engine-no-torch.txt environments/local/engine.in -o environments/local/engine.txt -q
	@$(LOCKED) --universal --upgrade \
	  components/chat_flow/requirements.in -o components/chat_flow/requirements.txt -q
	@$(LOCKED) --universal environments/uv.in -o environments/uv.txt -q

clean: ## stop the local workspace; delete it, the caches and the virtual environment
	@if [ -x $(BIN)/mlops ]; then $(BIN)/mlops local stop || true; fi
	@rm -rf .mlops $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
