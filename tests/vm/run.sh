#!/usr/bin/env bash
# Runs a command in a virtual machine that has RDMA devices.
usage() {
  cat <<'TEXT'
usage: tests/vm/run.sh [-t SECONDS] [-n DEVICES] [-w FOLDER]... [-e NAME=VALUE]... [-m MIB] [-v] -- COMMAND

Boots Debian's kernel (6 s, in software emulation: everything is about ten times slower than outside) on a
copy-on-write view of this machine's files, as root, with DEVICES RDMA devices rxe0, rxe1, ... (RoCE v2 in
software, at 10.77.0.1, 10.77.0.2, ...). There it runs COMMAND, a line for bash, in the current folder,
passes its output on and exits with its status. What the guest writes is gone when it ends.

  -t SECONDS     at most so long, boot included; then 124 is returned (default 300)
  -n DEVICES     how many RDMA devices (default 2)
  -w FOLDER      may be written: through to this machine
  -e NAME=VALUE  a variable for COMMAND; the environment of the caller is not passed on
  -m MIB         memory of the guest (default 3072)
  -v             shows the guest's console on stderr afterwards

exit status: COMMAND's; 124: out of time, and what hangs there is shown; 125: the VM itself stood still or came
to no result, and its console is shown; 2: this cannot work, and why.

The guest has its own /tmp, /run, /dev/shm and /out: neither this checkout nor a FOLDER can be in one of them.
Also there: modprobe for the modules in build/vm/modules, cgroup v2, debugfs, tracefs, bpf, and BTF of the
kernel. The first call makes build/vm (prepare.sh); what must be installed `scripts/setup.sh rdma` installs.
TEXT
}
set -euo pipefail
scripts=$(dirname "$(readlink -f "$0")")
readonly scripts
folder=$(readlink -m "$scripts/../../build/vm")
readonly folder

refuse() { printf 'run.sh: %s\n' "$*" >&2; exit 2; }

refuse_hidden() {
  case "$1/" in
    /tmp/* | /run/* | /dev/shm/* | /out/*)
      refuse "$1 is hidden in the guest, which has a /tmp, /run, /dev/shm and /out of its own;" \
        "use a checkout elsewhere, such as in your home folder" ;;
  esac
}

seconds=300 devices=2 memory_mib=3072 show_console=0
writable=() variables=()
while getopts t:n:w:e:m:vh option; do
  case $option in
    t) seconds=$OPTARG ;;
    n) devices=$OPTARG ;;
    w) writable+=("$(readlink -f "$OPTARG")") ;;
    e) variables+=("$OPTARG") ;;
    m) memory_mib=$OPTARG ;;
    v) show_console=1 ;;
    h) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
(($# > 0)) || { usage >&2; exit 2; }

command -v qemu-system-x86_64 >/dev/null || refuse "no qemu-system-x86_64 here: scripts/setup.sh rdma installs it"
for place in "$scripts" "$PWD" "${writable[@]}"; do refuse_hidden "$place"; done
# Several callers may find it missing at once.
[[ -e $folder/release ]] \
  || { mkdir -p "$(dirname "$folder")"; flock "$folder.lock" sh -c "[ -e '$folder/release' ] || '$scripts/prepare.sh'" >&2; } \
  || refuse "there is no virtual machine; see above"

state=$(mktemp -d "${TMPDIR:-/tmp}/shoal-vm.XXXXXX")
qemu_pid=
cleanup() {
  [[ -z $qemu_pid ]] || kill "$qemu_pid" 2>/dev/null || true
  rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# What guest-init.sh reads, in the guest's /out.
printf '%s\n' "$*" > "$state/command"
pwd > "$state/directory"
printf '%s\n' "${writable[@]}" | sed '/^$/d' > "$state/writable"
printf 'VM_DEVICES=%q\nVM_SECONDS=%q\n' "$devices" "$seconds" > "$state/environment"
for variable in "${variables[@]}"; do
  printf '%s=%q\n' "${variable%%=*}" "${variable#*=}" >> "$state/environment"
done

exec 3> >(exec cat)   # qemu opens its outputs by name, and a pipe can be opened so whatever our stdout is
readonly reader=$!
# no_timer_check: on a busy machine the kernel would find that its timer does not work, and stop.
machine=(
  -accel tcg,thread=multi,tb-size=512 -cpu max -M q35 -m "$memory_mib" -smp 2
  -nodefaults -no-user-config -no-reboot -display none -monitor none
  -kernel "$folder/vmlinux" -initrd "$folder/initramfs.cpio"
  -append "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off nokaslr audit=0 selinux=0 apparmor=0 cryptomgr.notests \
shoal.scripts=$scripts shoal.folder=$folder"
  -serial "file:$state/console"
  -device virtio-serial-pci -chardev file,id=output,path=/dev/fd/3,append=on
  -device virtserialport,chardev=output,name=output
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap
  -device virtio-9p-pci,fsdev=host,mount_tag=host
  -fsdev "local,id=out,path=$state,security_model=none" -device virtio-9p-pci,fsdev=out,mount_tag=out
)
for i in "${!writable[@]}"; do
  machine+=(-fsdev "local,id=writable$i,path=${writable[i]},security_model=none,multidevs=remap"
    -device "virtio-9p-pci,fsdev=writable$i,mount_tag=writable$i")
done

# The guest touches /out/alive every two seconds. Who has not for so long stands still: seen, if rarely, in
# emulation, and nothing that COMMAND could have done.
readonly still_s=90
age_of_life() { echo $(($(date +%s) - $(stat -c %Y "$state/alive"))); }

# Waits for qemu's end: its exit status; 124: $seconds are over; 125: the guest stands still.
wait_for_qemu() {
  local until=$((SECONDS + seconds)) status=0
  touch "$state/alive"
  while kill -0 "$qemu_pid" 2>/dev/null; do
    ((SECONDS < until)) || { status=124; break; }
    (($(age_of_life) < still_s)) || { status=125; break; }
    sleep 0.2
  done
  ((status == 0)) || kill -KILL "$qemu_pid" 2>/dev/null || true
  wait "$qemu_pid" 2>/dev/null || { ((status != 0)) || status=$?; }
  return "$status"
}

qemu-system-x86_64 "${machine[@]}" </dev/null 2>"$state/qemu.log" &
qemu_pid=$!
exec 3>&-
qemu_status=0
wait_for_qemu || qemu_status=$?
qemu_pid=
wait "$reader"

((show_console == 0)) || cat "$state/console" >&2
if [[ -s $state/status ]]; then exit "$(<"$state/status")"; fi
{
  case $qemu_status in
    124) echo "run.sh: the command has not ended within $seconds s (-t)" ;;
    125) echo "run.sh: the VM stands still: no sign of life for $still_s s" ;;
    *) echo "run.sh: the VM came to no result (qemu's exit status $qemu_status)"; qemu_status=125 ;;
  esac
  echo "run.sh: its last lines:"
  cat "$state/qemu.log"
  tail -n 200 "$state/console"
} >&2
exit "$qemu_status"
