#!/usr/bin/env bash
# What the virtual machine can show beside tests/vm/test-rdma.sh, on request and not in CI: the fault classes that
# need its devices or netem, and rails of which one goes down. An hour where the guest is emulated.
#
#   TEST_PYTHON  the interpreter (default .venv/bin/python); PYTHONPATH is passed on
#   SEEDS        of each class (default 1)
#   PARTS        of: rdma netem rails (default: all)
#
# build/vm-results/faults.jsonl keeps each case that was judged (tests/trace/faults/results.py): what it has is not played
# again.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

readonly python=${TEST_PYTHON:-$PWD/.venv/bin/python} seeds=${SEEDS:-1} kept=$PWD/build/vm-results
readonly pace=10   # of all times: the guest's processors are emulated
readonly rdma=(rdma_link_down rdma_loss rdma_qp_error rdma_slow_receiver rdma_receiver_not_ready rdma_slow_link)
readonly netem=(netem_loss netem_delay)
mkdir -p "$kept"

failed=()

# part NAME SECONDS DEVICES COMMAND: in a guest of its own. One that stood still (125) is no result: it is run once more.
part() {
  local name=$1 result try
  [[ " ${PARTS:-rdma netem rails} " == *" ${name%% *} "* ]] || return 0
  for try in 1 2; do
    echo "== $name"
    result=0
    tests/vm/run.sh -t "$2" -n "$3" -w "$kept" -e PATH="$PATH" -e PYTHONPATH="${PYTHONPATH:-}" -- "$4" || result=$?
    ((result == 125 && try == 1)) || break
  done
  ((result == 0)) || failed+=("$name")
}

# Of one class: a guest that hangs takes no other class with it.
faults() {
  local class
  for class in "${@:2}"; do
    part "$1 $class" $((150 + 250 * seeds)) 2 "modprobe -a sch_netem veth
      $python -m tests.trace.faults --pace $pace --classes $class --seeds $seeds --results $kept/faults.jsonl"
  done
}

faults rdma "${rdma[@]}"
faults netem "${netem[@]}"
for link in '' h1 'h1 silent'; do
  part "rails $link" 400 4 "modprobe sch_netem; tests/vm/rails.sh $python $link"
done

((${#failed[@]} == 0)) || printf 'not right: %s\n' "${failed[@]}" >&2
exit $((${#failed[@]} > 0))
