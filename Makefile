# Each target makes the environment that it needs: nothing but python3 and a C++ compiler has to be there.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := setup.py pyproject.toml MANIFEST.in $(shell find csrc faceattr -type f ! -name '*.so' ! -name '*.pyc')
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-sanitize bench lint docs reproduce test-cuda-build test-gpu test-gpu-sanitize bench-gpu

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py demo-output

# A file's tests stay together. Threads that wait sleep: those of the other processes need the cores.
test: $(INSTALLED)
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile tests

# Python itself is not instrumented: the sanitizer's library is loaded before it, and its leaks are not ours. Masked stores
# of AVX-512 are not checked, those that baseline takes in their place are. Under ThreadSanitizer, which does not see
# through torch's OpenMP, threads are std::threads.
SANITIZED := $(abspath $(BIN))/python -m pytest -p no:cacheprovider $(CURDIR)/tests/ops $(CURDIR)/tests/test_kernels_fuzz.py \
	-k "not compile and not export"
ASAN := env LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(CURDIR)/build/address/lib
TSAN := setarch -R env LD_PRELOAD="$$(c++ -print-file-name=libtsan.so) $(CURDIR)/build/thread/libparallel_for.so" \
	OMP_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1 PYTHONPATH=$(CURDIR)/build/thread/lib
test-sanitize: $(INSTALLED)
	for sanitizer in address thread; do FACEATTR_SANITIZE=$$sanitizer FACEATTR_CUDA=0 $(BIN)/python setup.py -q build \
		--build-base build/$$sanitizer --build-lib build/$$sanitizer/lib || exit 1; done
	c++ -std=c++20 -shared -fPIC -fsanitize=thread -O1 -g1 tests/sanitize/parallel_for.cpp -o build/thread/libparallel_for.so
	cd build/address && $(ASAN) $(SANITIZED)
	cd build/address && $(ASAN) FACEATTR_CPU_ISA=baseline $(SANITIZED)
	cd build/thread && $(TSAN) FACEATTR_CPU_ISA=baseline $(SANITIZED)

bench: $(INSTALLED)
	$(PIP) pytest-benchmark scipy pydpc
	mkdir -p build
	$(BIN)/pytest -c benchmarks/pytest.ini benchmarks --benchmark-json=build/benchmarks.json
	$(BIN)/python benchmarks/report.py benchmarks/RESULTS.md build/benchmarks.json
	$(BIN)/python benchmarks/memory.py >> benchmarks/RESULTS.md

# Compiles the CUDA kernels for three generations and reads what came out; needs nvcc, no GPU.
test-cuda-build: $(INSTALLED)
	$(PIP) nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(BIN)/pytest -m cuda_build tests/cuda

# The rest needs a GPU, and faceattr built for it (FACEATTR_CUDA=1) in the environment of PYTEST and PYTHON_GPU.
PYTEST ?= $(BIN)/pytest
PYTHON_GPU ?= $(BIN)/python

test-gpu:
	FACEATTR_REQUIRE_CUDA=1 $(PYTEST) -m "gpu and not large" tests/cuda

# Slow: a part of the tests, under each of the four tools.
test-gpu-sanitize:
	for tool in memcheck racecheck initcheck synccheck; do \
		FACEATTR_REQUIRE_CUDA=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(PYTEST) -q -m "gpu and not large" tests/cuda -k "C3 or peaks or interweave" || exit 1; \
	done

bench-gpu:
	$(PYTHON_GPU) benchmarks/on_gpu.py --output benchmarks/RESULTS-cuda.md

# Trains every stage, measures, and writes OUTPUT/RESULTS.md: make reproduce DATA=DIR, or CELEBA=DIR OBJECTS=DIR
# SCENES=DIR; see training/README.md. FAST=1 tries every stage for a few steps, ten minutes. Again: goes on.
CONFIG ?= cascade
OUTPUT ?= runs/reproduce
PYTHON_TRAIN ?= $(BIN)/python

reproduce: $(if $(filter $(BIN)/python,$(PYTHON_TRAIN)),$(INSTALLED))
	$(PYTHON_TRAIN) training/train_all.py training/configs/$(if $(FAST),fast,$(CONFIG)).yaml --output $(OUTPUT) \
		$(if $(FAST),--pictures 600) $(if $(DATA),--data $(DATA)) $(if $(CELEBA),--celeba $(CELEBA)) \
		$(if $(OBJECTS),--objects $(OBJECTS)) $(if $(SCENES),--scenes $(SCENES)) $(if $(SET),--set $(SET))

lint: $(BIN)/ruff $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

# The site, in build/docs/index.html; a warning is an error, and every example is run.
docs: $(INSTALLED)
	$(PIP) sphinx myst-parser furo
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	$(BIN)/pytest -q tests/test_docs.py

# A torch that is new enough stays; the operators are built against it, so without build isolation.
$(INSTALLED): $(SOURCES) | $(BIN)/python
	$(BIN)/python -c "import sys, torch; sys.exit(torch.torch_version.TorchVersion(torch.__version__) < '2.10')" \
		2>/dev/null || $(PIP) "$(TORCH)"
	$(PIP) "setuptools>=77" ninja wheel
	rm -rf build/lib*
	$(PIP) --no-build-isolation ".[train,test]"
	touch $@

$(BIN)/ruff: pyproject.toml | $(BIN)/python
	$(PIP) ruff clang-format mypy
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
