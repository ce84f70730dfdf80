#!/usr/bin/env bash
# Installs what is missing, and says what it does.
#
#   scripts/setup.sh demo   what building the package and running the demo needs
#   scripts/setup.sh bench  that, and what the benchmark's plots and networks need
#   scripts/setup.sh test   what the demo, the tests and the linters need
#   scripts/setup.sh rdma   that, and what the virtual machine of the RDMA tests needs (tests/vm)
#
# PyPI packages go into .venv. Debian packages are installed when this runs as root; otherwise the one
# line that installs them is printed, and this stops if one of them is required. PYTHON and CXX choose
# another interpreter (>= 3.10) and compiler (g++ >= 12).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly level=${1:-}
case $level in
  demo) readonly extras=(build run demo) ;;
  bench) readonly extras=(build run demo bench) ;;
  test | rdma) readonly extras=(build run demo test dev) ;;
  *) echo "usage: scripts/setup.sh demo|bench|test|rdma" >&2; exit 2 ;;
esac

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python >= 3.10 found (python3 is $(python3 --version 2>&1 || true));" \
    "install one, or name it: make PYTHON=/path/to/python3.11 ..."
}

has_header() { printf '#include <%s>\n' "$1" | "${cxx:-false}" -E -x c++ - >/dev/null 2>&1; }
has_python_h() { [[ -e $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]]; }
has_ucx_verbs() { compgen -G '/usr/lib*/*/ucx/libuct_ib.so.0' || compgen -G '/usr/lib*/ucx/libuct_ib.so.0'; }
has_rxe_driver() { compgen -G '/usr/lib*/*/libibverbs/librxe-*.so' || compgen -G '/usr/lib*/libibverbs/librxe-*.so'; }
has_static_busybox() { [[ $(ldd "$(command -v busybox)" 2>&1) == *'not a dynamic executable'* ]]; }
has_venv() { [[ -x .venv/bin/python ]] || "$python" -c 'import ensurepip, venv' 2>/dev/null; }

# As bpf/CMakeLists.txt looks for them.
has_bpf_clang() { compgen -c clang | grep -qxE 'clang(-1[4-9])?'; }
has_bpftool() { command -v bpftool || [[ -x /usr/sbin/bpftool ]]; }
has_static() { [[ $("${cxx:-false}" -print-file-name="lib$1.a") == /* ]]; }

# require PACKAGE PROBE...: PACKAGE joins the list when the probe fails. wish: the same, but optional.
require() { "${@:2}" >/dev/null 2>&1 || required+=("$1"); }
wish() { "${@:2}" >/dev/null 2>&1 || optional+=("$1"); }

# Probes look for the thing itself, so that one that came another way is as good as a package.
find_missing() {
  local version
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  required=() optional=()
  cxx=$(scripts/find-cxx.sh) || required+=(g++-12)
  require "$version-venv" has_venv
  require "$version-dev" has_python_h
  require libssl-dev has_header openssl/evp.h    # HMAC of the rendezvous
  wish systemtap-sdt-dev has_header sys/sdt.h    # USDT probes: without it they are left out
  if [[ $level == bench ]]; then
    wish iproute2 command -v ip                  # two hosts as network namespaces
  fi
  if [[ $level == test || $level == rdma ]]; then
    require libgtest-dev has_header gtest/gtest.h
    require pkg-config command -v pkg-config
    require iproute2 command -v ip               # two hosts as network namespaces
    wish valgrind command -v valgrind            # counts instructions: without it that test is skipped
    # The tracer (bpf/), 100 MB with clang: without them it is not built, and its tests are skipped.
    wish clang has_bpf_clang
    wish bpftool has_bpftool
    wish libbpf-dev has_static bpf
    wish libelf-dev has_static elf
    wish zlib1g-dev has_static z
    wish nlohmann-json3-dev has_header nlohmann/json.hpp
  fi
  # Without one of these the stage test-rdma is skipped, and says so.
  if [[ $level == rdma ]]; then
    wish qemu-system-x86 command -v qemu-system-x86_64
    wish busybox-static has_static_busybox       # in the guest's initramfs, where nothing else is
    wish cpio command -v cpio
    wish kmod command -v modprobe
    wish libucx0 has_ucx_verbs                   # 1.13 or newer; the wheel's has no verbs
    wish ibverbs-providers has_rxe_driver        # verbs of devices in software, among others
    wish ibverbs-utils command -v ibv_devices
  fi
}

install_debian_packages() {
  if ! command -v apt-get >/dev/null; then
    ((${#required[@]} == 0)) || fail "no apt-get here; install what Debian calls: ${required[*]}"
    return 0
  fi
  local line="apt-get install -y --no-install-recommends ${required[*]} ${optional[*]}"
  if ((EUID != 0)); then
    say "Debian packages are missing; to install them: sudo ${line% }"
    ((${#required[@]} == 0)) || fail "missing and required: ${required[*]}"
    return 0
  fi
  say "installing Debian packages: ${required[*]} ${optional[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || say "apt-get update failed; going on with the lists there are"
  apt-get install -y -qq --no-install-recommends "${required[@]}" "${optional[@]}" >/dev/null && return
  ((${#required[@]} == 0)) || fail "could not be installed; see apt-get's message above. The command was: $line"
  say "could not be installed; going on without. The command was: $line"
}

install_python_packages() {
  if [[ ! -x .venv/bin/python ]]; then
    say "making .venv with $python"
    "$python" -m venv .venv
  fi
  .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || fail ".venv has $(.venv/bin/python --version), 3.10 is needed: remove .venv and try again"
  local wanted
  wanted=$(.venv/bin/python scripts/requirements.py "${extras[@]}")
  say "PyPI packages into .venv: ${wanted//$'\n'/ }"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin <<<"$wanted"
}

python=$(find_python)
find_missing
if ((${#required[@]} + ${#optional[@]} > 0)); then
  install_debian_packages
  find_missing
  ((${#required[@]} == 0)) || fail "still missing after installation: ${required[*]}"
fi
install_python_packages
touch .venv/.ready-for-demo ".venv/.ready-for-$level"
say "ready for $level: $("$cxx" --version | head -n1); $(.venv/bin/python --version)"
