# Two commands do everything on a fresh machine (Python from 3.11, git, make): `make quickstart`, `make test`.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	if $$python -c '$(RECENT)' 2>/dev/null; then echo $$python; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test test-slow test-distributed vllm-env paper-0.6b paper-1.7b lint hooks clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python from 3.11 on (tried python3.11 to python3.13, python3): install one," \
		"or name it: make install PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt \
		-e '.[dev,gguf,lora,server,mcp,envs,wandb,trackio,tensorboard]'
	@# On all CPUs, where pip takes one; packages hold templates, too, which do not compile.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/sod quickstart recipes/quickstart.yaml $(ARGS)

# A worker more than there are CPUs, as tests often wait, four at most. With ARGS there is one process, which begins
# sooner, unless it is told otherwise: `make test ARGS=tests/cli WORKERS=2`. Bytecode is kept whatever the environment
# says: the tests start Python often.
WORKERS ?= $(if $(ARGS),0,$(shell expr $$(getconf _NPROCESSORS_ONLN) + 1))
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --maxprocesses 4 --dist worksteal

# The paper's table, from data to figures. `make paper-0.6b ARGS=--toy` runs every stage at toy size.
paper-0.6b paper-1.7b: paper-%: $(STAMP)
	$(BIN)/python scripts/paper.py --size $* --out runs/paper-$* $(ARGS)

# Every room's essence. The budget is 6 minutes on two idle cores; 5:27 on 2026-11-28.
test: $(STAMP)
	$(PYTEST) -n $(WORKERS) -m "not slow" $(ARGS)

# Whole commands, servers and processes that are killed. Its budget is 12 minutes on two idle cores, which it exceeds:
# 21:59 on 2026-11-28.
test-slow: $(STAMP)
	$(PYTEST) -n $(WORKERS) -m "slow and not vllm" --durations 30 $(ARGS)

# vLLM in an environment of its own: for runs that start servers, and for the tests below.
vllm-env:
	PYTHON=$(PYTHON) scripts/vllm_env.sh .venv-vllm

# Runs over several processes, on gloo, and with real vLLM servers, one test at a time. Its budget is 10 minutes
# once vLLM's environment stands; 7:32 on 2026-11-28.
test-distributed: $(STAMP) vllm-env
	$(PYTEST) -n 0 -m vllm tests
	$(PYTEST) -n 0 -m slow tests/distributed tests/cli/test_ranks_command.py

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks scripts examples docs/extending
	$(BIN)/ruff format --check src tests benchmarks scripts examples docs/extending
	$(BIN)/mypy
	$(BIN)/lint-imports

# Runs `make lint`'s checks at every commit.
hooks: $(STAMP)
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
