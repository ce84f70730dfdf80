#!/bin/bash
# on_host.sh HOST COMMAND...: what ssh is to a real job. HOST is a network namespace of the fixture two_hosts;
# its ranks get a device of their own, and what SHOAL_TEST_... ask for.
set -eu
readonly host=$1
shift
wrap=()
if [[ -n ${SHOAL_TEST_CGROUP:-} ]]; then echo $$ > "/sys/fs/cgroup/$SHOAL_TEST_CGROUP/cgroup.procs"; fi
if [[ -n ${SHOAL_TEST_MEMLOCK_BYTES:-} ]]; then   # root has to give up a capability to be limited
  wrap=(setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock
    prlimit "--memlock=$SHOAL_TEST_MEMLOCK_BYTES:$SHOAL_TEST_MEMLOCK_BYTES")
fi
if [[ -z ${SHOAL_TEST_ALL_DEVICES:-} ]]; then
  case $host in
    shoal-a*) export UCX_NET_DEVICES=rxe0:1 ;;
    *) export UCX_NET_DEVICES=rxe1:1 ;;
  esac
fi
exec nsenter "--net=/run/netns/$host" "${wrap[@]}" "$@"
