#!/bin/bash
# Collectives on CUDA memory, on a GPU, beside the same ones on host memory: `make test-gpu`.
#
# Needs nvcc, g++, CMake >= 3.22, OpenSSL's headers and a Python with numpy and pybind11 (torch's copy of its
# headers serves). No network, no package: no GoogleTest, no UCX. PYTHON names the interpreter.
# Without a GPU it says so and runs over the stand-in driver what has been built for that.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || command -v python3)}
limit_s=480

if ! nvidia-smi -L >/dev/null 2>&1; then
  tests=0
  if [ -f build/release/CTestTestfile.cmake ]; then
    report=$(cd build/release && timeout $limit_s ctest -R '^cuda_' --output-on-failure)
    echo "$report"
    tests=$(sed -n 's/.* out of \([0-9]*\)$/\1/p' <<<"$report")
  fi
  echo "test-gpu: skipped: no GPU (nvidia-smi finds none)."
  echo "test-gpu: host-side tests over the stand-in driver that ran instead: $tests programs" \
    "(and with make test: tests/python/test_cuda_*.py)."
  echo "test-gpu: on a machine with a GPU: make test-gpu, or PYTHON=/path/to/python scripts/test-gpu.sh"
  exit 0
fi

nvidia-smi -L
cmake -S . -B build/gpu -DCMAKE_BUILD_TYPE=Release -DSHOAL_TESTS=OFF -DSHOAL_UCX=OFF -DSHOAL_TRACER=OFF \
  -DSHOAL_TORCH=OFF -DSHOAL_PYTHON=ON -DSHOAL_CUDA=ON -DPython_EXECUTABLE="$python"
cmake --build build/gpu --target shoal_package --parallel "$(nproc)"
package=build/gpu/python
rm -rf $package
mkdir -p $package
cp -r python/shoal $package/
cmake --install build/gpu --component python --prefix $package/shoal
for ranks in 1 2 4; do
  PYTHONPATH=$package timeout $limit_s "$python" -m shoal.cli run -n $ranks \
    "$python" tests/gpu/collectives.py
done
