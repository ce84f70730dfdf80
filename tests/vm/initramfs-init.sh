#!/bin/sh
# The initramfs's /init (busybox): the machine outside, read-only over 9p, under an overlay that keeps
# what the guest writes in its memory; then guest-init.sh there, as PID 1.
export PATH=/bin

stop() { echo "initramfs: $*"; poweroff -f; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/early); do insmod /modules/$module; done

# cache=loose: nobody writes to the machine outside meanwhile that we would have to see.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || stop "no root over 9p"
mount -t tmpfs -o size=80% overlay /overlay
mkdir -p /overlay/upper /overlay/work
mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work overlay /newroot || stop "no overlay"

for module in $(cat /modules/rdma); do
  [ -d /sys/module/${module%.ko} ] || insmod /modules/$module 2>/dev/null   # crc32_pclmul: not on every processor
done
for system in proc sys dev; do mount --move /$system /newroot/$system; done
for word in $(cat /newroot/proc/cmdline); do
  case $word in
    shoal.scripts=*) export VM_SCRIPTS=${word#*=} ;;
    shoal.folder=*) export VM_FOLDER=${word#*=} ;;
  esac
done
exec switch_root /newroot "$VM_SCRIPTS/guest-init.sh"
