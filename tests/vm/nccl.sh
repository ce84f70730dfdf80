#!/usr/bin/env bash
# The driver of NCCL's plug-in (tests/nccl) over RC verbs: boots the virtual machine once and runs it there,
# every message by a link from rxe1 to rxe0. Wants a build with the C++ tests.
#
#   LIMIT_S  what everything may take, in seconds (default 480)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

if [[ ${1:-} != inside ]]; then
  exec tests/vm/run.sh -t "${LIMIT_S:-480}" -- tests/vm/nccl.sh inside
fi

readonly build=$PWD/build/release
export SHOAL_NCCL_NET=$build/csrc/nccl/net/libnccl-net-shoal.so
export SHOAL_UCX_MODULE=$build/csrc/transport/ucx/libshoal_ucx.so
export SHOAL_TEST_SENDING_DEVICE=1 SHOAL_TEST_RECEIVING_DEVICE=0 SHOAL_TEST_RAILS=2
export SHOAL_TEST_STORM=4 SHOAL_TEST_PATIENCE=5

status=0
# suite NAME PROGRAM FILTER. A limit passed leaves no report: that is seen.
suite() {
  echo "== $1"
  timeout --kill-after=5 200 "$build/tests/nccl/$2" "--gtest_filter=$3" --gtest_brief=1 \
    || { echo "== $1: exit status $?"; status=1; }
}

rdma link
suite every_version nccl_net_test '*DataArrives*:*Properties*'
suite oldest_and_newest nccl_net_test '*V6:*V12-*DataArrives*:*Properties*'
suite peers nccl_peer_test '*'
exit "$status"
