"""The TCP connections of a process and what the kernel knows of each, in any network namespace.

A descriptor of the other process is copied into this one (pidfd_getfd, Linux 5.6) and asked;
reading its state takes nothing from it. Needs the right to trace the process: the same user, or
CAP_SYS_PTRACE.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import pathlib
import socket
import struct
import termios
import time
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.pages import descriptors

_PIDFD_GETFD = 438  # the same number on every architecture
_ESTABLISHED = 1
_INFO_BYTES = 232  # of struct tcp_info in <linux/tcp.h>, to which fields are only added
_SIOCGIFCONF, _SIOCGIFFLAGS = 0x8912, 0x8913
_INTERFACE = struct.Struct("16sH2x4s16x")  # struct ifreq with an IPv4 address
_INTERFACES = 64
_UP, _RUNNING = 0x1, 0x40
_KEPT, _APART_S = 60, 0.5  # samples of the connections


@dataclass(frozen=True)
class Link:
    """One established connection at one moment."""

    local: str  # "address:port"
    remote: str
    unread_bytes: int  # have come, and the process has not read them
    unsent_bytes: int  # written by the process, and not acknowledged by the other side
    retransmits: int  # segments sent again, in all
    timeouts: int  # times in a row that nothing was acknowledged, now
    lost: int  # segments that are held for lost now
    unacked: int
    idle_ms: int  # since something came from the other side
    rtt_us: int
    receiver_full_us: int  # time in which the other side's window was full, in all
    received_bytes: int  # in all
    acknowledged_bytes: int
    interface: str = ""  # that has the local address; "": unknown
    up: bool = True  # it has been set up
    carrier: bool = True  # and has a link to somewhere
    needless: int = 0  # of the segments sent again: those that the other side had, in all
    least_rtt_us: int = 0  # of the last minutes; 0: unknown

    @property
    def name(self) -> tuple[str, str]:
        return self.local, self.remote


@dataclass(frozen=True)
class Sample:
    """The connections of a job at one moment."""

    t_ns: int
    links: dict[int, tuple[Link, ...] | None]  # by pid


def _decode(raw: bytes) -> dict[str, int]:
    """Fields by name. `raw` is shorter on an old kernel: what it lacks is 0."""
    raw = raw.ljust(_INFO_BYTES, b"\0")
    words = struct.unpack_from("=24I", raw, 8)
    acknowledged, received = struct.unpack_from("=QQ", raw, 120)
    return {
        "state": raw[0],
        "timeouts": raw[2],
        "unacked": words[4],
        "lost": words[6],
        "last_received_ms": words[11],
        "rtt_us": words[15],
        "total_retransmits": words[23],
        "acknowledged": acknowledged,
        "received": received,
        "least_rtt_us": struct.unpack_from("=I", raw, 148)[0],
        "rwnd_limited_us": struct.unpack_from("=Q", raw, 176)[0],
        "needless": struct.unpack_from("=I", raw, 216)[0],
    }


def _name(address: tuple[str, int]) -> str:
    host = address[0].removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def _queue(descriptor: int, request: int) -> int:
    value = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, request, value)
    except OSError:
        return 0
    return value[0]


def _interface(connection: socket.socket, address: str) -> tuple[str, bool, bool]:
    """Name, up, carrier of the interface with `address`, in the socket's own namespace."""
    room = array.array("B", bytes(_INTERFACES * _INTERFACE.size))
    request = array.array("B", struct.pack("iP", len(room), room.buffer_info()[0]))
    try:
        fcntl.ioctl(connection.fileno(), _SIOCGIFCONF, request)
        used = struct.unpack_from("i", request)[0]
        for name, _, ip in _INTERFACE.iter_unpack(room.tobytes()[: used - used % _INTERFACE.size]):
            if socket.inet_ntoa(ip) != address:
                continue
            asked = fcntl.ioctl(connection.fileno(), _SIOCGIFFLAGS, name.ljust(40, b"\0"))
            flags = struct.unpack_from("H", asked, 16)[0]
            text = name.rstrip(b"\0").decode(errors="replace")
            return text, bool(flags & _UP), bool(flags & _RUNNING)
    except OSError:
        pass
    return "", True, True


def _describe(connection: socket.socket) -> Link | None:
    if connection.type != socket.SOCK_STREAM or connection.family not in (
        socket.AF_INET,
        socket.AF_INET6,
    ):
        return None
    info = _decode(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
    if info["state"] != _ESTABLISHED:
        return None
    local = connection.getsockname()[:2]
    interface, up, carrier = _interface(connection, local[0].removeprefix("::ffff:"))
    return Link(
        local=_name(local),
        remote=_name(connection.getpeername()[:2]),
        unread_bytes=_queue(connection.fileno(), termios.FIONREAD),
        unsent_bytes=_queue(connection.fileno(), termios.TIOCOUTQ),
        retransmits=info["total_retransmits"],
        timeouts=info["timeouts"],
        lost=info["lost"],
        unacked=info["unacked"],
        idle_ms=info["last_received_ms"],
        rtt_us=info["rtt_us"],
        receiver_full_us=info["rwnd_limited_us"],
        received_bytes=info["received"],
        acknowledged_bytes=info["acknowledged"],
        interface=interface,
        up=up,
        carrier=carrier,
        needless=info["needless"],
        # Of a connection that has measured none the kernel says the largest number.
        least_rtt_us=info["least_rtt_us"] if info["least_rtt_us"] != 0xFFFFFFFF else 0,
    )


def _sockets(pid: int) -> list[int]:
    found = descriptors(pathlib.Path(f"/proc/{pid}"))
    return [int(link.name) for link, what in found if what.startswith("socket:")]


def read_links(pid: int) -> tuple[Link, ...] | None:
    """None: this process may not be looked at, or is gone."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    links = []
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        for number in _sockets(pid):
            copy = syscall(_PIDFD_GETFD, process, number, 0)
            if copy < 0:
                if ctypes.get_errno() in (1, 38):  # EPERM, ENOSYS: nor will the others be had
                    return None
                continue
            with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):
                link = _describe(connection)
                if link is not None:
                    links.append(link)
    except OSError:
        return None
    finally:
        os.close(process)
    return tuple(links)


class History:
    """The connections as they were during the last half minute: an operation is often through when
    it is looked at for the second time, and what was sent again for it is a count by then. One
    thread."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def look(self, pids: Iterable[int]) -> None:
        """Takes a sample if it is time to."""
        now = time.monotonic_ns()
        if self._samples and now - self._samples[-1].t_ns < _APART_S * 1e9:
            return
        sample = Sample(now, {pid: read_links(pid) for pid in pids})
        self._samples = [*self._samples[-(_KEPT - 1) :], sample]

    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)
