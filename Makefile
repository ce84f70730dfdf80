# What a person types. The build itself is described in CMakeLists.txt; this file only calls it.
#
#   PYTHON=python3.12   the interpreter .venv is made with (>= 3.10)
#   CXX=g++-13          the compiler (g++ >= 12)
#   RANKS=4             how many ranks `make demo` starts
#   REPORT=docs/performance.md  where `make bench` writes its report and plots

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BUILD := build/release
REPORTS := $(CURDIR)/build/reports
JOBS := $(shell nproc)
SHOAL := $(VENV)/bin/shoal

# cmake and ninja come from PyPI like the rest, so that they are the same everywhere.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
ifneq ($(shell command -v ccache),)
  export CMAKE_CXX_COMPILER_LAUNCHER := ccache
endif
ifneq ($(origin CXX),default)
  export CXX
endif
WITH_CXX = CXX="$$(scripts/find-cxx.sh)"
CONFIGURE = $(WITH_CXX) cmake --log-level=WARNING
CTEST = ctest --no-tests=error --timeout 300 -j $(JOBS)

.PHONY: help demo test bench bench-quick bench-torch bench-tracer bench-gpu build package baseline format lint clean \
  test-cpp test-python test-trace test-torch test-torch-full test-rdma test-rdma-full test-asan test-tsan test-gpu

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: package ## train a network on real data with four ranks
	$(SHOAL) run -n $(or $(RANKS),4) $(VENV)/bin/python examples/train_digits.py

test: $(VENV)/.ready-for-test ## all that CI runs: C++ and Python tests, sanitizers, lint
	@scripts/test.sh

BENCH = $(SHOAL) bench --directory build/bench

bench: package $(VENV)/.ready-for-bench ## shoal beside other libraries and floors, 40 minutes, with a report
	@mkdir -p build/bench
	$(BENCH) --json build/bench/full.json --report $(or $(REPORT),build/bench/performance.md)

bench-quick: package ## the same with two ranks and fewer sizes, in under 3 minutes
	@mkdir -p build/bench
	$(BENCH) --quick --rows build/bench/quick.json

bench-torch: package $(VENV)/.ready-for-test ## torch.distributed over shoal beside gloo, 15 minutes, with a report
	@mkdir -p build/bench
	$(BENCH) --torch --json build/bench/torch.json --report $(or $(REPORT),build/bench/performance-torch.md)

bench-tracer: package $(VENV)/.ready-for-test build ## what progress page, probes and an attached tracer cost, 5 minutes
	$(CONFIGURE) --preset release -B build/unobservable -DSHOAL_TESTS=ON -DSHOAL_UCX=OFF -DSHOAL_TRACER=OFF -DSHOAL_OBSERVABLE=OFF
	cmake --build build/unobservable --target call_cost page_cost
	$(VENV)/bin/python -m benchmarks.tracer --builds $(BUILD) build/unobservable --report $(or $(REPORT),docs/tracing.md)

build: $(VENV)/.ready-for-test configure ## the C++ libraries and tests, in build/release
	cmake --build $(BUILD)

package: $(VENV)/.ready-for-demo ## the Python package, into .venv
	$(WITH_CXX) SHOAL_BUILD_DIR=$(CURDIR)/$(BUILD) $(VENV)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-build-isolation --no-deps .

baseline: build ## write down what calls cost in instructions now (tests/instructions)
	cmake --build $(BUILD) --target update_instructions

format: $(VENV)/.ready-for-test ## rewrite sources as the formatters want them
	find csrc include bpf tests benchmarks -name '*.h' -o -name '*.cc' -o -name '*.c' -o -name '*.inc' | xargs $(VENV)/bin/clang-format -i
	$(VENV)/bin/ruff check --quiet --select I --fix .
	$(VENV)/bin/ruff format .

lint: $(VENV)/.ready-for-test configure ## clang-format, clang-tidy, ruff, mypy
	@scripts/lint.sh

clean: ## remove build output (.venv stays)
	rm -rf build python/*.egg-info

# Stages of `make test`.

test-cpp: build ## C++ tests, release build
	$(CTEST) --preset release --output-junit $(REPORTS)/cpp.xml

# 15 minutes bound the whole run; each test has a limit of its own.
test-python: package ## Python tests against the installed package
	timeout --kill-after=10 900 $(VENV)/bin/python -m pytest tests/python tests/nccl --junitxml=$(REPORTS)/python.xml

# The tracer: verdicts on made-up evidence, shoal-tracer's counts, a few disturbed jobs (tests/trace/faults).
test-trace: package $(VENV)/.ready-for-test ## the tracer: verdicts, eBPF programs, disturbed jobs
	timeout --kill-after=10 900 $(VENV)/bin/python -m pytest tests/trace --junitxml=$(REPORTS)/trace.xml

# The torch backend: our tests, and a sample of torch's own (tests/torch/suites/README.md).
test-torch: package ## the torch backend: our tests, a sample of torch's own suites
	timeout --kill-after=10 900 $(VENV)/bin/python -m pytest tests/torch --junitxml=$(REPORTS)/torch.xml
	timeout --kill-after=10 600 $(VENV)/bin/python -m tests.torch.suites --backend gloo --backend shoal \
	  --sample --minutes 8 --junit $(REPORTS)/torch-suites.xml

test-torch-full: package $(VENV)/.ready-for-test ## torch's own suites, all of them, beside gloo
	@mkdir -p $(REPORTS)
	$(VENV)/bin/python -m tests.torch.suites --backend gloo --backend shoal --minutes 60 \
	  --json $(REPORTS)/torch-full.json --junit $(REPORTS)/torch-full.xml

# Builds what it needs in build/gpu, with no package and no network; says "skipped: no GPU" where there is none.
test-gpu: ## collectives on CUDA memory on a GPU, beside the host's
	scripts/gpu.sh test

bench-gpu: ## all_reduce of CUDA memory on a GPU beside gloo and NCCL, 8 minutes
	scripts/gpu.sh bench

# In a virtual machine with RDMA devices in software (docs/rdma.md); skipped where there can be none.
test-rdma: package $(VENV)/.ready-for-rdma build ## UCX over verbs: transports, collectives, faults, limits
	tests/vm/test-rdma.sh

test-rdma-full: package $(VENV)/.ready-for-rdma build ## what else the virtual machine shows: faults of RDMA, netem, rails; an hour
	TEST_PYTHON=$(CURDIR)/$(VENV)/bin/python tests/vm/full.sh

# Not under a sanitizer: tests that measure (slow), and the installed library (install).
# intercept_tls_get_addr=0 (in the preset): GCC 12's leak checker guesses where modules loaded later, UCX here,
# have their thread-local data, and crashes if the guess is wrong.
test-asan: $(VENV)/.ready-for-test ## C++ tests with address and undefined-behaviour sanitizers
	$(CONFIGURE) --preset asan
	cmake --build build/asan
	$(CTEST) --preset asan -LE 'slow|install' --output-junit $(REPORTS)/asan.xml

# Without UCX: it is not instrumented, so its own synchronisation would look like races. Without the
# pure tests, which have one thread.
test-tsan: $(VENV)/.ready-for-test ## C++ tests with the thread sanitizer (ranks are threads)
	$(CONFIGURE) --preset tsan -DSHOAL_UCX=OFF
	cmake --build build/tsan
	$(CTEST) --preset tsan -LE 'slow|install' -E 'verify_|schedule_test|reduce_test|kernels_test' --output-junit $(REPORTS)/tsan.xml

.PHONY: configure
configure: $(VENV)/.ready-for-test
	$(CONFIGURE) --preset release -DSHOAL_TESTS=ON -DSHOAL_PYTHON=ON \
	  -DSHOAL_TORCH=$$($(VENV)/bin/python -c 'import importlib.util as u; print(bool(u.find_spec("torch")))') \
	  -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python

# Set-up: once, and again when what it installs has changed.
$(VENV)/.ready-for-%: scripts/setup.sh scripts/requirements.py pyproject.toml
	@scripts/setup.sh $*
