#!/usr/bin/env bash
# rails.sh PYTHON [LINK [silent]]: in a guest with four RDMA devices, a job of two ranks with two rails each (rxe0
# and rxe1 against rxe2 and rxe3). LINK, e.g. h1, goes down in its middle, or loses everything without a word while
# its device sends again for ever: the job must go on, be right, and name the rail. The ranks are on two "hosts": network namespaces of their own.
set -euo pipefail
readonly python=$1 down=${2:-} how=${3:-down}
folder=$(mktemp -d)
readonly folder program=$(dirname "$(readlink -f "$0")")/rails.py
trap 'rm -rf "$folder"' EXIT

for host in a b; do ip netns add "$host"; done
ip link add control netns a type veth peer name control netns b
number=1
for host in a b; do
  ip -n "$host" addr add 10.78.0.$number/24 dev control
  ip -n "$host" link set control up
  ip -n "$host" link set lo up
  number=$((number + 1))
done

if [[ -n $down ]]; then
  ( for ((i = 0; i < 2400; i++)); do
      if [[ -e $folder/asked ]]; then
        if [[ $how == silent ]]; then
          tc qdisc add dev "$down" root netem loss 100%
        else
          ip link set "$down" down
        fi
        touch "$folder/done"
        exit
      fi
      sleep 0.05
    done ) &
fi
[[ $how != silent ]] || echo 'export UCX_RC_RETRY_COUNT=7' > "$folder/rank.sh"
cat >> "$folder/rank.sh" <<'RANK'
case $SHOAL_RANK in
  0) export UCX_NET_DEVICES=rxe0:1,rxe1:1 ;;
  *) export UCX_NET_DEVICES=rxe2:1,rxe3:1 ;;
esac
exec "$@"
RANK
ip netns exec a "$python" -m shoal.cli run --hosts a:1,b:1 --agent "ip netns exec {host}" \
  --address 10.78.0.1 --env PYTHONPATH="${PYTHONPATH:-}" --env UCX_UD_VERBS_ETH_DGID_CHECK=n --timeout 250 \
  bash "$folder/rank.sh" "$python" "$program" "$folder" $down | tee "$folder/output"
if [[ -n $down ]]; then
  [[ $(grep -c "rail rxe[0-9]:1 to rank [01] dropped: " "$folder/output") == 2 ]]
fi
