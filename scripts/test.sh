#!/usr/bin/env bash
# The stages of `make test`, one after the other, all of them even when one fails. Ends with what each
# took, and with the counts that the test programs themselves reported (build/reports/*.xml).
set -uo pipefail
cd "$(dirname "$0")/.."

readonly stages=(test-cpp test-python test-trace test-torch test-gpu test-rdma test-asan test-tsan lint)
lines=()
status=0

rm -rf build/reports
mkdir -p build/reports
for stage in "${stages[@]}"; do
  start=$SECONDS
  echo "==> $stage"
  if ${MAKE:-make} --no-print-directory "$stage"; then word=ok; else word=FAILED status=1; fi
  lines+=("$(printf '%-12s %-7s %4d s' "$stage" "$word" $((SECONDS - start)))")
done

printf '==> make test\n'
printf '    %s\n' "${lines[@]}"
.venv/bin/python scripts/summary.py build/reports || status=1
exit "$status"
