#!/usr/bin/env bash
# Makes what run.sh boots: a kernel, its modules and an initramfs, in build/vm. The kernel is Debian's, downloaded
# and unpacked, never installed: any user may do that. What has to be installed (qemu, busybox, cpio, kmod,
# verbs, UCX) `scripts/setup.sh rdma` installs.
#
#   build/vm/vmlinux           the kernel, unpacked: software emulation takes 4 s to unpack it at each boot
#   build/vm/modules/          what a guest may load, as /lib/modules has it
#   build/vm/initramfs.cpio    busybox, initramfs-init.sh, and the modules that come before the root is there
#   build/vm/release           the kernel's release; written last: build/vm is whole
set -euo pipefail
source_folder=$(dirname "$(readlink -f "$0")")
readonly source_folder
folder=$(readlink -m "$source_folder/../../build/vm")
readonly folder

fail() { printf 'prepare.sh: %s\n' "$*" >&2; exit 1; }

# What a guest may load, in the words of the package: 26 MB of its 400.
readonly module_names=(
  drivers/infiniband/core/ drivers/infiniband/sw/   # verbs, and the RDMA devices of software: rxe, siw
  drivers/virtio/ drivers/char/virtio_console.ko net/9p/ fs/9p/ fs/netfs/ fs/fscache/ fs/overlayfs/ fs/configfs/
  drivers/net/veth.ko drivers/net/dummy.ko net/bridge/ net/802/ net/llc/ net/sched/ net/ipv4/ net/ipv6/
  crypto/ arch/x86/crypto/ lib/
)

# Loaded by the initramfs: those that the root needs, then those that would be read through it one by one.
readonly early_modules=(virtio_pci 9pnet_virtio 9p overlay virtio_console)
readonly rdma_modules=(rdma_rxe ib_umad rdma_ucm veth bridge crc32_generic crc32_pclmul)

require_tools() {
  [[ $(uname -m) == x86_64 ]] || fail "the guest is an x86-64 PC; this machine is $(uname -m)"
  local tool
  for tool in apt-get dpkg-deb cpio modprobe depmod busybox python3; do
    command -v "$tool" >/dev/null || fail "no $tool here: scripts/setup.sh rdma installs it"
  done
}

# The package that Debian's linux-image-amd64 depends on, e.g. linux-image-6.1.0-56-amd64.
kernel_package() {
  apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }'
}

unpack_kernel() {
  local package=$1 release=$2 name patterns=()
  for name in "${module_names[@]}"; do patterns+=("./lib/modules/$release/kernel/$name*"); done
  (cd "$work" && apt-get download -qq "$package" 2>"$work/apt.log") \
    || fail "cannot download $package: $(tail -n 1 "$work/apt.log")"
  dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -C "$work" -x --wildcards \
    "./boot/vmlinuz-$release" "./lib/modules/$release/modules.*" "${patterns[@]}"
  mkdir -p "$folder/modules"
  mv "$work/lib/modules/$release" "$folder/modules/"
  mkdir -p "$work/root/lib"
  ln -s "$folder/modules" "$work/root/lib/modules"   # as modprobe and depmod want it
  depmod -b "$work/root" "$release"
}

# A bzImage holds the kernel's ELF file, compressed by xz.
write_vmlinux() {
  python3 - "$1" "$folder/vmlinux" <<'PYTHON'
import lzma, pathlib, sys

image = pathlib.Path(sys.argv[1]).read_bytes()
kernel = lzma.LZMADecompressor().decompress(image[image.index(b"\xfd7zXZ\x00"):])
if not kernel.startswith(b"\x7fELF"):
    sys.exit("prepare.sh: this kernel is packed in a way that is not known here")
pathlib.Path(sys.argv[2]).write_bytes(kernel)
PYTHON
}

# Copies modules and what they depend on to the initramfs, and writes their order to the file `list`.
add_modules() {
  local release=$1 list=$2 module path
  for module in "${@:3}"; do
    modprobe -d "$work/root" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
  done | awk '!seen[$0]++' | while read -r path; do
    cp -n "$path" "$initramfs/modules/"
    basename "$path"
  done > "$initramfs/modules/$list"
}

write_initramfs() {
  local release=$1 applet
  initramfs=$work/initramfs
  mkdir -p "$initramfs"/{bin,dev,host,modules,newroot,overlay,proc,sys}
  cp "$(command -v busybox)" "$initramfs/bin/busybox"
  for applet in cat insmod mkdir mount poweroff sh switch_root; do ln -s busybox "$initramfs/bin/$applet"; done
  add_modules "$release" early "${early_modules[@]}"
  add_modules "$release" rdma "${rdma_modules[@]}"
  install -m 755 "$source_folder/initramfs-init.sh" "$initramfs/init"
  (cd "$initramfs" && find . | cpio -o -H newc --quiet) > "$folder/initramfs.cpio"
}

require_tools
package=$(kernel_package)
[[ -n $package ]] || fail "apt knows no linux-image-amd64: is this Debian, and has apt-get update been run?"
release=${package#linux-image-}
rm -rf "$folder"
mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
unpack_kernel "$package" "$release"
write_vmlinux "$work/boot/vmlinuz-$release"
write_initramfs "$release"
echo "$release" > "$folder/release"
echo "prepare.sh: Linux $release is ready to boot in $folder"
