"""Two hosts on one machine: network namespaces joined by a veth pair. Needs root and iproute2."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .workshop import Unavailable

_COMMAND_SECONDS = 20
_CARRIER_SECONDS = 5.0
_SUBNET = "10.83.1"  # inside the namespaces only
# bbr, the default of some hosts, makes results jump with the size of writes.
_CONGESTION_CONTROL = "reno"


@dataclass(frozen=True)
class Hosts:
    names: tuple[str, str]  # of the namespaces
    addresses: tuple[str, str]
    links: tuple[str, str]

    def inside(self, rank: int, ranks: int) -> list[str]:
        """Words before a command that is to run where this rank is: the first half on one host."""
        return ["ip", "netns", "exec", self.names[rank * 2 // ranks]]

    def received_bytes(self) -> int:
        """What has crossed the link so far, both ways."""
        return sum(
            int(_ip("netns", "exec", name, "cat", f"/sys/class/net/{link}/statistics/rx_bytes"))
            for name, link in zip(self.names, self.links, strict=True)
        )


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Made now, removed at the end. Raises Unavailable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise Unavailable("network namespaces need root and the command ip (Debian: iproute2)")
    tag = f"{os.getpid()}"
    hosts = Hosts(
        (f"shoal-bench-a{tag}", f"shoal-bench-b{tag}"),
        (f"{_SUBNET}.1", f"{_SUBNET}.2"),
        (f"sba{tag}", f"sbb{tag}"),
    )
    try:
        try:
            _make(hosts)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"cannot make network namespaces: {error.stderr.strip()}") from error
        yield hosts
    finally:
        for name in hosts.names:  # the links go with them
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _make(hosts: Hosts) -> None:
    for name in hosts.names:
        _ip("netns", "add", name)
    (a, b), (link_a, link_b) = hosts.names, hosts.links
    _ip("link", "add", link_a, "netns", a, "type", "veth", "peer", "name", link_b, "netns", b)
    for name, link, address in zip(hosts.names, hosts.links, hosts.addresses, strict=True):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
        _ip("-n", name, "link", "set", link, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        setting = f"net.ipv4.tcp_congestion_control={_CONGESTION_CONTROL}"
        _ip("netns", "exec", name, "sysctl", "-q", "-w", setting)
    for name, link in zip(hosts.names, hosts.links, strict=True):
        _wait_until_up(name, link)


def _wait_until_up(name: str, link: str) -> None:
    """The kernel reports a link's carrier a while after `set up`; some libraries look only once."""
    deadline = time.monotonic() + _CARRIER_SECONDS
    while " UP " not in (shown := _ip("-n", name, "-br", "link", "show", link)):
        if time.monotonic() > deadline:
            raise Unavailable(f"{link} has no carrier after {_CARRIER_SECONDS:g} s: {shown}")
        time.sleep(0.05)


def _ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, timeout=_COMMAND_SECONDS
    ).stdout
