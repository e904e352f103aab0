# Two commands on a fresh machine:  make demo   and   make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The CPU build is enough for the tests; name another build for GPU training.
TORCH ?= torch==2.13.0

# Which onnxruntime: cpu, or gpu for NVIDIA GPUs. The two packages exclude each other.
RUNTIME ?= cpu
OTHER_RUNTIME = $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)
PIP = $(BIN)/python -m pip --disable-pip-version-check

# Each worker loads models of its own.
WORKERS ?= 2
# One thread each for the small models of the tests: a pool that waits for a busy core stalls.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder
COMPILE = $(BIN)/engine warmup
LOWER = $(BIN)/python -m tests.reference.lower_levels

.PHONY: demo test lint docs bench gate interop wheel clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Where the other onnxruntime is installed, both go first: uninstalling one alone breaks the one that stays.
# speech-engine was this package's own name.
clear = $(PIP) uninstall --quiet --yes speech-engine 2> /dev/null; \
	if $(PIP) show --quiet $(OTHER_RUNTIME) 2> /dev/null; then \
		$(PIP) uninstall --quiet --yes onnxruntime onnxruntime-gpu; fi

# Base install plus what engine-bench needs: no torch.
$(VENV)/.runtime: setup.py engine/_distribution.py | $(BIN)/python
	$(clear)
	$(PIP) install --quiet -e '.[$(RUNTIME),bench]'
	touch $@

$(VENV)/.dev: setup.py engine/_distribution.py | $(BIN)/python
	$(clear)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet -e '.[$(RUNTIME),dev]'
	touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime
	$(BIN)/engine info
	$(BIN)/engine translate examples/audio/*.flac --verbose
	$(BIN)/engine-bench --task translate --warmup 1

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ as a website in site/; a warning, such as a broken link, is an error. (--quiet would
# hide warnings from --strict.)
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# All tests at the processor's highest instruction set level, then those that depend on the level at each
# lower one. Kernels are compiled first, several levels at a time, so that no two workers compile the same ones;
# for avx2 all that a wheel holds.
test: lint
	$(COMPILE)
	$(LOWER) | tr ' ' '\n' | xargs -P $(WORKERS) -I{} sh -c '\
		ahead=; if test {} = avx2; then ahead="--levels avx2"; fi; ENGINE_CPU_LEVEL={} $(COMPILE) $$ahead'
	$(PYTEST)
	for level in $$($(LOWER)); do \
		ENGINE_CPU_LEVEL=$$level $(PYTEST) -m 'levels and not timing' || exit 1; \
	done

bench: $(VENV)/.runtime
	$(BIN)/engine-bench --task translate

# The embedded bundle against its baseline. 2 is "could not tell", on a noisy machine or another processor:
# said, but no failure. The limit on speed is wide because machines for tests are shared.
gate: $(VENV)/.runtime
	@$(BIN)/engine-bench gate --baseline benchmarks/baselines/de-en-base.json --max-slowdown 0.5 --quiet || \
		{ code=$$?; test $$code = 2 || exit $$code; echo "gate: speed could not be judged here; not a failure"; }

# Beside optimum, transformers, pyctcdecode and KenLM's own package, in an environment of their own. What is
# done stays done: run it again after an interruption.
interop: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers.interop --environment .venv-interop --torch $(TORCH) \
		--json benchmarks/results/interop.json

# For other machines: kernels of every instruction set level, for this version of Python.
wheel: | $(BIN)/python
	ENGINE_BUILD_LEVELS=all $(PIP) wheel --quiet --no-deps -w dist .

clean:
	rm -rf $(VENV) build site *.egg-info
