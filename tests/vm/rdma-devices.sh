#!/bin/bash
# rdma-devices.sh COUNT: in the guest, COUNT RDMA devices rxe0, rxe1, ... (RoCE v2 in software), each on a
# link h0, h1, ... of its own with the address 10.77.0.1, 10.77.0.2, ..., joined by a bridge.
#
# All of them are in one network namespace, for Linux 6.1's rxe listens in the first one only; processes of
# other namespaces can use them. So every address is this machine's own, and without more traffic would
# not leave by a link but be looped back. What rxe sends is bound to its device's link; a rule for each link
# finds, before the table of local addresses is asked, that the other addresses lie behind it.
set -eu
readonly count=$1

address() { echo "10.77.0.$(($1 + 1))"; }
mac() { printf '02:77:00:00:00:%02x' $(($1 + 1)); }

link_commands() {
  local i=$1 table=$((100 + $1)) j
  echo "link add h$i mtu 4200 address $(mac "$i") type veth peer name port$i mtu 4200"
  echo "link set port$i master rails up"
  echo "link set h$i up"
  echo "addr add $(address "$i")/24 dev h$i"
  echo "route add local $(address "$i") dev h$i table $table"
  echo "route add 10.77.0.0/24 dev h$i table $table src $(address "$i")"
  echo "rule add pref $((10 + i)) iif lo oif h$i lookup $table"
  for ((j = 0; j < count; j++)); do   # nobody has to ask for addresses
    ((i == j)) || echo "neigh replace $(address "$j") lladdr $(mac "$j") dev h$i nud permanent"
  done
}

all_commands() {
  local i
  echo "link add rails mtu 4200 type bridge"
  echo "link set rails up"
  for ((i = 0; i < count; i++)); do link_commands "$i"; done
  echo "rule add pref 1000 lookup local"   # after those of the links, not before them
  echo "rule del pref 0 lookup local"
}

sysctl -qw net.ipv4.conf.all.accept_local=1 net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.rp_filter=0 \
  net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
all_commands | ip -batch -
for ((i = 0; i < count; i++)); do rdma link add "rxe$i" type rxe netdev "h$i"; done
