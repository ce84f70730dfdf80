#!/bin/bash
# on_rdma_host.sh HOST COMMAND...: what ssh is to a real job. HOST is a network namespace of hosts.py; its ranks
# use a device of their own. `ip netns exec` would hide the links of the devices, which are in the first namespace.
set -eu
readonly host=$1
shift
case $host in
  fault-a*) export UCX_NET_DEVICES=rxe0:1 ;;
  *) export UCX_NET_DEVICES=rxe1:1 ;;
esac
exec nsenter "--net=/run/netns/$host" "$@"
