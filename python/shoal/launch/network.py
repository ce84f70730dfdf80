"""Which of this machine's addresses the other hosts reach: the store binds to one, never to all."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from shoal.launch.job import UsageError

_SIOCGIFADDR = 0x8915
_ROUTE_UP = 0x1


def address_of(interface: str) -> str | None:
    """The interface's IPv4 address; None if it has none."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(reply[20:24])


def addresses() -> dict[str, str]:
    """Interface -> IPv4 address, loopback left out."""
    found = {name: address_of(name) for _, name in socket.if_nameindex()}
    return {
        name: address
        for name, address in found.items()
        if address is not None and not address.startswith("127.")
    }


def default_interface(table: str | None = None) -> str | None:
    """The interface of the default route with the lowest metric."""
    if table is None:
        try:
            table = Path("/proc/net/route").read_text()
        except OSError:
            return None
    routes: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        name, destination, _gateway, flags, _, _, metric, mask, *_ = line.split()
        if int(destination, 16) == 0 and int(mask, 16) == 0 and int(flags, 16) & _ROUTE_UP:
            routes.append((int(metric), name))
    return min(routes)[1] if routes else None


def store_address(address: str | None, interface: str | None, remote: bool) -> str:
    """Where to bind the store: as asked, else loopback for one host, else the default route's."""
    if address:
        return address
    if interface:
        found = address_of(interface)
        if found is None:
            raise UsageError(f"--interface {interface}: no IPv4 address there; {_known()}")
        return found
    if not remote:
        return "127.0.0.1"
    have = addresses()
    default = default_interface()
    if default in have:
        return have[default]
    if len(have) == 1:
        return next(iter(have.values()))
    raise UsageError(
        f"--hosts: no default route says which address the hosts reach this machine by; {_known()}"
    )


def _known() -> str:
    listed = ", ".join(f"{name} {address}" for name, address in sorted(addresses().items()))
    return f"give --address or --interface; this machine has: {listed or 'loopback only'}"
