# make demo   install into .venv and watch an adaptive network learn to read digits
# make test   install into .venv, lint, run every test, compile the Triton kernels for GPUs that are absent
# make lint   ruff, clang-format, mypy
# make docs   install into .venv, execute the notebooks, build the documentation in build/docs; a warning is an error
# make gpu-check   on a machine with a GPU: check every kernel, then time it (GPU_PYTHON: a Python with torch and Triton)
# make cross   the C++ test for Windows and aarch64, in emulators, and without OpenMP; skips what has no tools here
PYTHON ?= python3
VENV ?= .venv
# The package accepts a range of torch versions; pinning one here keeps these two commands repeatable.
TORCH ?= torch==2.13.0
JOBS ?= auto
GPU_PYTHON ?= $(PYTHON)

BIN := $(VENV)/bin
CXX_NAMES := -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh'
SOURCES := setup.py pyproject.toml $(shell find csrc $(CXX_NAMES))
CXX_FILES := $(shell find csrc tests benchmarks $(CXX_NAMES))

# The tests start many processes. Without the bytecode of the repository's modules, each would compile them anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test docs lint clean gpu-check cross

demo: $(VENV)/lab.installed
	$(BIN)/aru demo --output demo

test: $(VENV)/test.installed lint
	$(BIN)/python -m aru_kernels
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal
	$(BIN)/python tests/tools/compile_table.py

docs: $(VENV)/docs.installed
	$(BIN)/python -m sphinx -W --keep-going -b html -D nb_execution_mode=force docs build/docs

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu/check.py

cross:
	$(PYTHON) tests/tools/cross.py

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy

# torch first and alone, so that no other package pulls in another build of it.
$(VENV)/torch.installed:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/%.installed: $(VENV)/torch.installed $(SOURCES)
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build aru_kernels/_C*.so aru_kernels/_cuda*.so aru_kernels/_build*.txt
