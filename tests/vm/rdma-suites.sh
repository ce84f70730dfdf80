#!/bin/bash
# rdma-suites.sh transports|jobs FOLDER: in the guest, what has to hold over verbs: the C++ transports and the
# executor, or the Python jobs of tests/rdma. A JUnit report of each goes to FOLDER. UCX is found as a user's
# would be: SHOAL_UCX_DIR is not set.
set -uo pipefail
readonly part=$1 folder=$2 tests=build/release/tests
status=0

# suite NAME SECONDS PROGRAM [FILTER]: a GoogleTest program. A limit passed leaves no report: that is seen.
suite() {
  local name=$1 seconds=$2 program=$3 filter=${4:-*}
  echo "== $name"
  timeout --kill-after=5 "$seconds" "$tests/$program" --gtest_brief=1 "--gtest_filter=$filter" \
    "--gtest_output=xml:$folder/$name.xml" || { echo "== $name: exit status $?"; status=1; }
}

links() {   # what netem shall do to what leaves by them
  for link in h0 h1; do tc qdisc replace dev "$link" root netem limit 10000 "$@"; done
}
plain_links() {
  for link in h0 h1; do tc qdisc del dev "$link" root; done
}

run_transports() {
  export SHOAL_UCX_MODULE=$PWD/build/release/csrc/transport/ucx/libshoal_ucx.so
  export SHOAL_TEST_UCX_DEVICES=rxe0:1,rxe1:1            # neighbours are on different links
  export UCX_RC_RX_QUEUE_LEN=256 UCX_UD_RX_QUEUE_LEN=256   # longer ones take seconds to fill here

  suite rc_transport 120 transport/ucx_transport_test
  UCX_TLS=ud_v,self suite ud_transport 120 transport/ucx_transport_test 'Ucx/*'
  # Messages that are cut in their middle must take a while.
  links rate 300mbit
  suite rc_peer 150 transport/ucx_peer_transport_test
  UCX_TLS=ud_v,self suite ud_peer 150 transport/ucx_peer_transport_test 'Ucx/*'
  # Peers that are killed or stopped before they have answered.
  links delay 150ms
  suite rc_unanswered 60 transport/ucx_peer_transport_test '*NeverReceived*:*Stopped*'
  plain_links
  SHOAL_TEST_RANKS=2,4 suite rc_executor 120 exec/executor_test 'OverUcx*'
  SHOAL_TEST_RANKS=4 UCX_TLS=ud_v,self suite ud_executor 120 exec/executor_test 'OverUcx.Hierarchical'
}

# A test that fails is run once more, and both results are shown: under an emulated kernel whose RDMA devices
# are software a job may stop for reasons that are nobody's here; what is wrong with shoal fails twice.
run_jobs() {
  "$PYTHON" -m pytest tests/rdma -v -p no:cacheprovider --durations=5 --reruns 1 -rR \
    "--junitxml=$folder/python.xml" || status=1
}

modprobe sch_netem
"run_$part"
exit "$status"
