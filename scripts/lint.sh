#!/usr/bin/env bash
# Formatters and linters over the whole tree; every one runs, any finding fails.
# Needs scripts/setup.sh test, and build/release configured (its compile_commands.json).
set -uo pipefail
cd "$(dirname "$0")/.."

readonly bin=.venv/bin
failed=()

check() {
  local start=$SECONDS
  if "${@:2}"; then
    printf 'lint: %-14s ok (%d s)\n' "$1" $((SECONDS - start))
  else
    printf 'lint: %-14s FAILED\n' "$1"
    failed+=("$1")
  fi
}

cxx_files() {
  find csrc include bpf tests benchmarks -name '*.h' -o -name '*.cc' -o -name '*.c' -o -name '*.inc'
}
format_cxx() { cxx_files | xargs "$bin/clang-format" --dry-run -Werror; }

# csrc/torch as it is compiled, in batches: torch's headers take 10 s of each.
tidied() {
  find csrc bpf -name '*.cc' -not -path 'csrc/torch/*' -print0
  find build/release/csrc/torch -path '*/Unity/*.cxx' -print0
}

# One process per core, a few files each: most of the time goes into the same standard headers.
# The compiler of the build is GCC; what Clang does not know of its flags is not a finding.
tidy() {
  [[ -e build/release/compile_commands.json ]] || { echo "lint: configure first: make build"; return 1; }
  tidied | xargs -0 -P "$(nproc)" -n 4 "$bin/clang-tidy" -p build/release --quiet \
    --warnings-as-errors='*' --extra-arg=-Wno-unknown-warning-option --extra-arg=-D_Bool=bool \
    2> >(grep -Ev 'warnings generated|Processing file' >&2)
}

check clang-format format_cxx
check clang-tidy tidy
check ruff "$bin/ruff" check --quiet .
check 'ruff format' "$bin/ruff" format --quiet --check .
check mypy "$bin/mypy" --no-error-summary

((${#failed[@]} == 0)) || { echo "lint: failed: ${failed[*]} (make format repairs formatting)"; exit 1; }
