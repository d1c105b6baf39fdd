# Everything is run through here, by people and by CI alike.  `make` lists what there is.

PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
LOCKS   := requirements/base.txt requirements/engine.txt requirements/dev.txt

# No model hub, no usage statistics, no chatter: a run never needs a network once the packages are installed.
export HF_HUB_OFFLINE := 1
export VLLM_NO_USAGE_STATS := 1
export VLLM_LOGGING_LEVEL := ERROR
export TORCH_CPP_LOG_LEVEL := ERROR
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where this is set, vLLM would be compiled anew at every start: 25 s instead of 12.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup test test-adapters lint format types demo notebooks formulas docs site reports bench clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## build .venv with PyTorch, vLLM for CPU, and dooly itself

# The lists are closed and pinned, so nothing is resolved (--no-deps): the same packages on every machine, and none of the
# gigabytes that vLLM's own list would bring.  A broken-off installation leaves no stamp and starts over.  Byte code is made
# at the first import (--no-compile): most of what lies in these packages is never imported.
$(STAMP): $(LOCKS) pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@echo "installing $(words $(shell grep -hv '^#' $(LOCKS))) packages: two to three minutes on two cores"
	$(BIN)/pip install -q --progress-bar on --no-deps --no-compile $(foreach lock,$(LOCKS),-r $(lock))
	$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	$(BIN)/python -c 'import vllm.model_executor.models, vllm.v1.engine.core'
	@touch $@

lint: $(STAMP) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## pyright, strict, over dooly/
	$(BIN)/pyright --pythonpath $(BIN)/python

# Two processes, a file each at a time: vLLM is imported once in each, and one thread keeps them out of each other's way.
# One that dies ends the run: its successor would wait for ever.
test: lint types ## everything that CI runs: lint, types, tests, doctests, notebooks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0

# Environments of their own, because each simulator has its own list; not part of CI.  What runs from a checkout is tested
# where one is named: VIDUR_SOURCE (microsoft/vidur), SPLITWISE_SOURCE (Mutinifni/splitwise-sim), LLMSERVINGSIM_SOURCE
# (casys-kaist/LLMServingSim), BLIS_SOURCE (inference-sim, after `go build -o blis main.go`).
ADAPTERS := .venv-adapters

test-adapters: $(ADAPTERS)/.installed ## exported data in the simulators themselves, in environments of their own
	$(ADAPTERS)/vidur/bin/python -m pytest -W default tests/adapters/real/test_vidur.py
	$(ADAPTERS)/others/bin/python -m pytest -W default tests/adapters/real --ignore tests/adapters/real/test_vidur.py

$(ADAPTERS)/.installed: pyproject.toml
	rm -rf $(ADAPTERS)
	$(PYTHON) -m venv $(ADAPTERS)/vidur
	$(ADAPTERS)/vidur/bin/pip install -qq 'pytest>=9' 'hypothesis>=6.150' vidur==0.0.26 --editable .
	$(PYTHON) -m venv $(ADAPTERS)/others
	$(ADAPTERS)/others/bin/pip install -qq 'pytest>=9' 'hypothesis>=6.150' msgspec vllm-sr-sim==0.1.0.dev20260713123629 \
		xpyd-sim==0.5.0 aiconfigurator-core==0.12.0 hydra-core==1.3.2 requests --editable .
	$(ADAPTERS)/others/bin/pip install -qq --no-deps ai-dynamo==1.2.1 ai-dynamo-runtime==1.2.1
	@touch $@

format: $(STAMP) ## rewrite the sources in the one format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

demo: $(STAMP) ## the whole chain on this machine, in under four minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

notebooks: $(STAMP) ## run the notebooks and keep their outputs
	$(BIN)/python -m dooly.passes llama-3.1-8b -p annotate-shapes -o notebooks/llama-3.1-8b.ir
	$(BIN)/python -m dooly.passes $(notdir $(wildcard dooly/models/*)) -o notebooks/families.ir
	$(BIN)/python scripts/run_notebooks.py notebooks/*.ipynb

formulas: $(STAMP) ## fit the formulas that ship, where points or code have changed: six minutes
	$(BIN)/python scripts/shipped_formulas.py

docs: $(STAMP) ## write the pages that come from the code: operations and what they cost
	$(BIN)/python scripts/operation_table.py

# The site has an environment of its own: none of its packages are needed to run or to test dooly.
SITE := .venv-site

site: $(STAMP) $(SITE)/.installed ## the documents as a site, in site/
	$(BIN)/python -m dooly.cli.reference -o docs/reference/command-line.md
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --quiet

$(SITE)/.installed: requirements/site.txt
	rm -rf $(SITE)
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/pip install -q --no-deps --no-compile -r requirements/site.txt
	@touch $@

architectures: $(STAMP) ## docs/results/architectures.md: every bundled model captured, deduplicated and checked by witnesses
	$(BIN)/python benchmarks/architectures.py

reports: $(STAMP) ## accuracy, costs, kernels and validation in docs/, from the measurements that ship
	$(BIN)/python scripts/cost_page.py
	$(BIN)/python scripts/kernel_page.py
	$(BIN)/python -m scripts.accuracy_page
	$(BIN)/python scripts/validation_page.py

bench: $(STAMP) ## seconds of capture and of each pass for four models; microseconds of a step prediction; speed of simulation
	$(BIN)/python -m dooly.passes --time-passes llama-3.1-8b llama-3.1-70b qwen3-8b mixtral-8x7b > /dev/null
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/simulation.py

clean: ## remove environments, caches and build outputs
	rm -rf $(VENV) $(ADAPTERS) $(SITE) site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
