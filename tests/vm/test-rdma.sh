#!/usr/bin/env bash
# The stage test-rdma: boots the virtual machine for each part of tests/vm/rdma-suites.sh, and leaves one
# report, build/reports/rdma.xml. Where there can be no such machine the report has one skipped test that
# says why. Wants a build with the C++ tests, and the package in the Python that TEST_PYTHON names.
#
#   TEST_PYTHON  the interpreter (default .venv/bin/python); PYTHONPATH is passed on
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

shopt -s nullglob
readonly python=${TEST_PYTHON:-$PWD/.venv/bin/python} parts=$PWD/build/reports/rdma

# Why there can be no virtual machine; nothing if there can.
what_is_missing() {
  local tool
  [[ $(uname -m) == x86_64 ]] || { echo "the guest is an x86-64 PC, this is $(uname -m)"; return; }
  case "$PWD/" in /tmp/* | /run/* | /dev/shm/*) echo "the guest cannot see $PWD: it has its own"; return ;; esac
  for tool in qemu-system-x86_64 busybox cpio modprobe ibv_devices; do
    command -v "$tool" >/dev/null \
      || { echo "no $tool here: scripts/setup.sh rdma installs it, as root"; return; }
  done
  compgen -G '/usr/lib*/*/ucx/libuct_ib.so.0' >/dev/null \
    || { echo "no UCX with verbs here (Debian's libucx0)"; return; }
  [[ -e build/vm/release ]] || tests/vm/prepare.sh >&2 || echo "no kernel could be had for the guest, see above"
}

rm -rf "$parts"
mkdir -p "$parts"
missing=$(what_is_missing)
if [[ -n $missing ]]; then
  echo "test-rdma: skipped: $missing"
  "$python" scripts/junit.py skipped build/reports/rdma.xml "rdma: $missing"
  exit
fi

# What tests/rdma has not begun by then is skipped, and says so: of a slow machine 7 minutes are enough.
readonly begun_within=420

# part NAME SECONDS: in a machine of its own. One that stood still is no result: that part is run once more.
status=0
part() {
  local name=$1 seconds=$2 result try
  for try in 1 2; do
    result=0
    tests/vm/run.sh -t "$seconds" -w "$parts" -e PYTHON="$python" -e PYTHONPATH="${PYTHONPATH:-}" \
      -e SHOAL_TEST_RDMA_SECONDS="$begun_within" -- tests/vm/rdma-suites.sh "$name" "$parts" || result=$?
    ((result == 125 && try == 1)) || break
    echo "test-rdma: $name: the virtual machine came to no result, see above; once more"
  done
  ((result == 0)) || { echo "test-rdma: $name: exit status $result"; status=1; }
}
part transports 360
part jobs 660
"$python" scripts/junit.py merge build/reports/rdma.xml "$parts"/*.xml || status=$?
exit "$status"
