#!/bin/bash
# gpu.sh test|bench [OPTION...]: CUDA memory on a GPU (`make test-gpu`, `make bench-gpu`). Collectives beside the same ones
# on host memory, bit for bit, then torch.distributed and what other libraries share with shoal; or all_reduce beside
# gloo's and NCCL's, and over its floor.
#
# Needs nvcc, g++, CMake >= 3.22 and a Python with PyTorch, whose pybind11 serves, and no package or network:
# what else is installed (UCX, GoogleTest, pybind11, OpenSSL's headers) is not looked at, so that it is the same build
# everywhere. PYTHON names the interpreter. Without a GPU it says so, and runs the same program over
# the stand-in driver where the C++ tests have been built.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || command -v python3)}
readonly what=${1:-} python package=build/gpu/python stand_in=$PWD/build/release/tests
case $what in
  test) readonly limit_s=150 ;;
  bench) readonly limit_s=460 ;;
  *) echo "usage: scripts/gpu.sh test|bench" >&2; exit 2 ;;
esac

build() {   # TORCH: ON with shoal.torch, for the torch of this Python
  local ignored=() name
  for name in OpenSSL pybind11 GTest UCX; do ignored+=("-DCMAKE_DISABLE_FIND_PACKAGE_$name=ON"); done
  cmake -S . -B build/gpu --log-level=NOTICE -DCMAKE_BUILD_TYPE=Release -DSHOAL_TESTS=OFF -DSHOAL_UCX=OFF \
    -DSHOAL_TRACER=OFF -DSHOAL_TORCH="$1" -DSHOAL_PYTHON=ON -DSHOAL_CUDA=ON -DPython_EXECUTABLE="$python" "${ignored[@]}"
  cmake --build build/gpu --target shoal_package gpu_floor --parallel "$(nproc)"
  rm -rf $package
  mkdir -p $package
  cp -r python/shoal python/_shoal_torch.py $package/
  cmake --install build/gpu --component python --prefix $package/shoal >/dev/null
}

run() { PYTHONPATH=$package:$PWD${PYTHONPATH:+:$PYTHONPATH} timeout "$limit_s" "$python" -m "$@"; }
collectives() { run shoal.cli run -n "$1" "$python" tests/gpu/collectives.py "${@:2}"; }   # RANKS [--quick]
# Their streams wait for one another: see "Queues" in docs/gpu.md.
in_threads() { CUDA_DEVICE_MAX_CONNECTIONS=32 run tests.gpu.collectives --threads "$@"; }   # RANKS [--quick]
gpu_floor() { timeout 100 build/gpu/benchmarks/gpu/gpu_floor "$@"; }

# Says how a command went that is called NAME; all of them are run, whatever becomes of one.
failed=0
try() {   # NAME COMMAND...
  if "${@:2}"; then echo "test-gpu: ok: $1"; else failed=1; echo "test-gpu: FAILED: $1"; fi
}
checks() { PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH} timeout 120 "$python" "tests/gpu/$1"; }   # PROGRAM
all_tests() {
  local ranks
  for ranks in 1 2 4; do try "collectives.py, $ranks ranks" collectives "$ranks"; done
  for ranks in 2 4; do try "collectives.py, $ranks ranks as threads" in_threads "$ranks"; done
  try interop.py checks interop.py
  if [[ $has_torch == ON ]]; then
    try torch_cuda.py checks torch_cuda.py
    try nccl_users.py run tests.gpu.nccl_users
  else
    echo "test-gpu: skipped: torch_cuda.py, nccl_users.py: $python has no torch >= 2.11"
  fi
  return "$failed"
}

if nvidia-smi -L 2>/dev/null; then
  case $what in
    test)
      has_torch=$("$python" -c "import sys, torch; sys.exit(torch.__version__ < '2.11')" 2>/dev/null && echo ON || echo OFF)
      build "$has_torch"
      all_tests
      ;;
    bench) build OFF; run benchmarks.gpu "${@:2}"; gpu_floor ;;
  esac
  exit
fi

skipped="$what-gpu: skipped: no GPU (nvidia-smi finds none)"
command -v nvcc >/dev/null || { echo "$skipped, and no nvcc to build with"; exit; }
build OFF
ran="none (make test-cpp builds the stand-in driver)"
if [[ -f $stand_in/fake_cuda/libcuda_fake.so ]]; then
  export SHOAL_CUDA_DRIVER=$stand_in/fake_cuda/libcuda_fake.so
  export FAKE_CUDA_KERNELS=$stand_in/cuda/libshoal_cuda_kernels_host.so
  export SHOAL_CUDA_DEVICE=0   # shared by all ranks, as one GPU would be
  case $what in
    test) collectives 3 --quick; in_threads 3 --quick; run tests.gpu.nccl_users --try ;;
    bench) run benchmarks.gpu --try --ranks 1 2 >/dev/null; gpu_floor --try >/dev/null ;;
  esac
  programs=$(cd build/release && ctest -N -R '^cuda_' | sed -n 's/^Total Tests: //p')
  ran="its program, once; and with make test: $programs programs of ctest -R '^cuda_', tests/python/test_cuda_*.py"
fi
echo "$skipped. Built all the same, in build/gpu."
echo "$what-gpu: over the stand-in driver ran instead: $ran"
echo "$what-gpu: on a machine with a GPU: make $what-gpu, or PYTHON=/path/to/python scripts/gpu.sh $what"
