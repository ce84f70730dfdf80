#!/bin/bash
# PID 1 of the guest. Makes it a machine in which programs can work, runs the command that run.sh has left
# in /out, writes its exit status there and powers off. What this prints itself goes to the console.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
readonly nine_p=trans=virtio,version=9p2000.L,msize=512000

say() { echo "guest: $* ($(cut -d' ' -f1 /proc/uptime) s)"; }

mount_file_systems() {
  mount -t tmpfs tmpfs /tmp
  mount -t tmpfs tmpfs /run
  mkdir -p /run/lock /run/netns /dev/shm /dev/pts /out
  mount -t tmpfs tmpfs /dev/shm
  mount -t devpts devpts /dev/pts
  ln -sf /proc/self/fd /dev/fd
  ln -sf /proc/self/fd/0 /dev/stdin
  ln -sf /proc/self/fd/1 /dev/stdout
  ln -sf /proc/self/fd/2 /dev/stderr
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount -t debugfs debugfs /sys/kernel/debug
  mount -t tracefs tracefs /sys/kernel/tracing
  mount -t bpf bpf /sys/fs/bpf
  mount -t 9p -o "$nine_p,cache=none" out /out
}

# The folders of run.sh's -w: through to the machine outside.
mount_writable_folders() {
  local folder number=0
  while read -r folder; do
    mount -t 9p -o "$nine_p,cache=none" "writable$number" "$folder" || say "cannot mount $folder"
    number=$((number + 1))
  done < /out/writable
}

let_modprobe_work() {
  local release
  release=$(uname -r)
  mkdir -p /lib/modules
  [[ -d /lib/modules/$release ]] || ln -s "$VM_FOLDER/modules/$release" /lib/modules/
}

be_a_host() {
  hostname shoal-vm
  echo "127.0.0.1 localhost shoal-vm" > /etc/hosts
  ulimit -l unlimited
  ulimit -n 65536
  ip link set lo up
}

# For run.sh: the guest lives. And shortly before its time is over the console says who hangs: tasks that wait
# in the kernel, with their stacks, and all processes.
show_life() { while touch /out/alive; do sleep 2; done; }
show_hang() {
  sleep $((VM_SECONDS > 40 ? VM_SECONDS - 20 : VM_SECONDS))
  say "about to be ended; who is there, and who is blocked:"
  ps -N --ppid 2 -o pid,ppid,stat,wchan:24,args
  echo 8 > /proc/sysrq-trigger
  echo w > /proc/sysrq-trigger
}

# Where the command's output goes: the port that run.sh reads.
output_device() {
  local port
  for port in /sys/class/virtio-ports/*; do
    [[ $(< "$port/name") == output ]] && echo "/dev/${port##*/}"
  done
}

say "Linux $(uname -r)"
mount_file_systems
mount_writable_folders
let_modprobe_work
be_a_host
set -a
. /out/environment
set +a
show_life &
show_hang &
"$VM_SCRIPTS/rdma-devices.sh" "$VM_DEVICES"
say "ready"
cd "$(< /out/directory)" || say "no such folder here: $(< /out/directory)"
bash /out/command > "$(output_device)" 2>&1 < /dev/null
echo $? > /out/status
say "the command has ended: $(< /out/status)"
sync
exec busybox poweroff -f
