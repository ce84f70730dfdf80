"""Two hosts on one machine: network namespaces joined by a veth pair. Needs root and iproute2."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .workshop import Unavailable

_COMMAND_SECONDS = 20
_CARRIER_SECONDS = 5.0
_SUBNET = "10.83.1"  # inside the namespaces only
# bbr, the default of some hosts, makes results jump with the size of writes.
_CONGESTION_CONTROL = "reno"
_NAME = "shoal-bench-"  # and a or b, and the number of the process that made it
_LINK = "shoal0"  # the same name on both sides: a library is told one device for all hosts

# Stands in for ssh. A host's name is its address, which everybody can look up without a server.
_AGENT = """\
#!/bin/sh
# AGENT [options] ADDRESS COMMAND...: runs the command on one of the two hosts.
while [ "${{1#-}}" != "$1" ]; do shift; done
address=$1
shift
case $address in
  {addresses[0]}) name={names[0]} ;;
  {addresses[1]}) name={names[1]} ;;
  *) echo "no such host: $address" >&2; exit 255 ;;
esac
exec ip netns exec "$name" unshare --uts --ipc sh -c "hostname $address; $*"
"""


@dataclass(frozen=True)
class Hosts:
    """`agent` is a program to be called in the place of ssh."""

    names: tuple[str, str]  # of the namespaces
    addresses: tuple[str, str]
    link: str  # the network device, on each of them
    agent: Path

    def inside(self, rank: int, ranks: int) -> list[str]:
        """Words before a command that is to run where this rank is: the first half on one host."""
        return ["ip", "netns", "exec", self.names[rank * 2 // ranks]]

    def as_host(self, number: int) -> list[str]:
        """The same, for one that looks at the host's name, or for System V shared memory."""
        script = 'hostname "$0"; exec "$@"'
        words = ["unshare", "--uts", "--ipc", "sh", "-c", script, self.addresses[number]]
        return ["ip", "netns", "exec", self.names[number], *words]

    def crossed_bytes(self) -> int:
        """What has crossed the link so far, both ways."""
        path = f"/sys/class/net/{self.link}/statistics/rx_bytes"
        return sum(int(_ip("netns", "exec", name, "cat", path)) for name in self.names)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Made now, removed at the end. Raises Unavailable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise Unavailable("network namespaces need root and the command ip (Debian: iproute2)")
    _remove_abandoned()
    names = (f"{_NAME}a{os.getpid()}", f"{_NAME}b{os.getpid()}")
    addresses = (f"{_SUBNET}.1", f"{_SUBNET}.2")
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        agent = Path(folder) / "agent"
        agent.write_text(_AGENT.format(names=names, addresses=addresses))
        agent.chmod(0o700)
        hosts = Hosts(names, addresses, _LINK, agent)
        try:
            _make(hosts)
            yield hosts
        finally:
            _remove(names)


def _remove(names: Iterable[str]) -> None:
    for name in names:  # links go with them
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _remove_abandoned() -> None:
    """Namespaces of a run that was killed before it could do so."""
    pids = re.findall(rf"^{_NAME}[ab](\d+)\b", _ip("netns", "list"), re.MULTILINE)
    for pid in pids:
        if not Path("/proc", pid).exists():
            _remove((f"{_NAME}a{pid}", f"{_NAME}b{pid}"))


def _make(hosts: Hosts) -> None:
    a, b = hosts.names
    _ip("netns", "add", a)
    _ip("netns", "add", b)
    _ip("link", "add", hosts.link, "netns", a, "type", "veth",
        "peer", "name", hosts.link, "netns", b)  # fmt: skip
    for name, address in zip(hosts.names, hosts.addresses, strict=True):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", hosts.link)
        _ip("-n", name, "link", "set", hosts.link, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        setting = f"net.ipv4.tcp_congestion_control={_CONGESTION_CONTROL}"
        _ip("netns", "exec", name, "sysctl", "-q", "-w", setting)
    for name in hosts.names:
        _wait_until_up(name, hosts.link)


def _wait_until_up(name: str, link: str) -> None:
    """The kernel reports a link's carrier a while after `set up`; some libraries look only once."""
    deadline = time.monotonic() + _CARRIER_SECONDS
    while " UP " not in (shown := _ip("-n", name, "-br", "link", "show", link)):
        if time.monotonic() > deadline:
            raise Unavailable(f"{link} has no carrier after {_CARRIER_SECONDS:g} s: {shown}")
        time.sleep(0.05)


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout
