"""Two hosts with an RDMA device each, in the virtual machine of tests/vm: a works over rxe0, b over
rxe1, whose packets cross the links h0 and h1 (tests/vm/rdma-devices.sh)."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import struct
from collections.abc import Iterator, Mapping

from tests.trace.faults.hosts import Hosts, can_make, run
from tests.trace.faults.processes import wait_until

ON_HOST = pathlib.Path(__file__).with_name("on_rdma_host.sh")
SYSTEM_UCX = pathlib.Path("/usr/lib/x86_64-linux-gnu")  # the wheel's has no verbs
SETTINGS = {
    "SHOAL_NETWORK": "ucx",
    "SHOAL_UCX_DIR": str(SYSTEM_UCX),
    "UCX_TLS": "rc_v,self",
    "UCX_UD_VERBS_ETH_DGID_CHECK": "n",  # before 1.19 it drops every packet of IPv4
    "UCX_RC_RX_QUEUE_LEN": "256",  # 70 MB a device, by default, take seconds to fill in emulation
    "UCX_UD_RX_QUEUE_LEN": "256",
    # For ever, with rxe: a fault may cost time, and must not break the job.
    "UCX_RC_RETRY_COUNT": "7",
    "UCX_RC_TIMEOUT": "2s",
}

DRAIN_S = 30.0

_PIDFD_GETFD = 438
_VERBS_IOCTL = 0xC0181B01  # RDMA_VERBS_IOCTL of <rdma/rdma_user_ioctl_cmds.h>
_HEADER = struct.Struct("=HHHHQII")  # length, object, method, attributes, -, driver, -
_ATTRIBUTE = struct.Struct("=HHHHQ")  # number, length, flags, -, data or its address
_CORE_IN, _WRITE_COMMAND, _MANDATORY = 0, 2, 1
_RXE = 14  # RDMA_DRIVER_RXE
_MODIFY_QP = 26  # of ib_uverbs_write_cmds
_STATE, _ERROR = 1, 6  # IB_QP_STATE, IB_QPS_ERR
# ib_uverbs_modify_qp: two addresses, handle, mask, five words, two halves, state, and the rest.
_MODIFY = struct.Struct("=64x II 20x 4x B 15x")
_MOST_HANDLES = 256


class RdmaHosts(Hosts):
    """`environment`: what the ranks are given beside SETTINGS."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.environment = {**SETTINGS, **environment}

    def launcher(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.names['a']}"]

    def options(self, ranks_each: int) -> list[str]:
        a, b = self.names["a"], self.names["b"]
        words = ["--hosts", f"{a}:{ranks_each},{b}:{ranks_each}", "--agent", f"{ON_HOST} {{host}}",
                 "--address", self.address["a"]]  # fmt: skip
        for name, value in self.environment.items():
            words += ["--env", f"{name}={value}"]
        return words

    @contextlib.contextmanager
    def lossy(self, link: str, percent: int) -> Iterator[None]:
        with _queueing(link, "netem", "loss", f"{percent}%", "limit", "10000"):
            yield

    @contextlib.contextmanager
    def slow(self, link: str, rate_kb: int) -> Iterator[None]:
        """So many kB a second. What waits for its turn has left before the queue goes, in the order
        in which it came: without time-outs nothing may be lost. (netem could do neither.)"""
        room = ("burst", "16kb", "limit", "10mb")
        with _queueing(link, "tbf", "rate", f"{rate_kb}kbps", *room):
            try:
                yield
            finally:
                run("tc", "qdisc", "change", "dev", link, "root", "tbf", "rate", "1gbit", *room)
                wait_until(lambda: _backlog(link) == 0, DRAIN_S, f"the queue of {link} is empty")

    @contextlib.contextmanager
    def unplugged(self, link: str) -> Iterator[None]:
        """The other end of this link's cable is set down. The interface itself set down would lose
        its routes for good, and UCX's connections with them."""
        port = link.replace("h", "port")
        run("ip", "link", "set", port, "down")
        try:
            yield
        finally:
            run("ip", "link", "set", port, "up")


@contextlib.contextmanager
def _queueing(link: str, *discipline: str) -> Iterator[None]:
    """What leaves by this link goes through a queue of this kind."""
    run("tc", "qdisc", "add", "dev", link, "root", *discipline)
    try:
        yield
    finally:
        run("tc", "qdisc", "del", "dev", link, "root")


def _backlog(link: str) -> int:
    """Packets that wait to leave."""
    (queue,) = json.loads(run("tc", "-s", "-j", "qdisc", "show", "dev", link, "root"))
    return int(queue["qlen"])


def _break(device: int, handle: int) -> bool:
    """False: the handle is that of something else, or of nothing."""
    command = ctypes.create_string_buffer(_MODIFY.pack(handle, _STATE, _ERROR), _MODIFY.size)
    attributes = _ATTRIBUTE.pack(_CORE_IN, _MODIFY.size, _MANDATORY, 0, ctypes.addressof(command))
    attributes += _ATTRIBUTE.pack(_WRITE_COMMAND, 8, _MANDATORY, 0, _MODIFY_QP)
    header = _HEADER.pack(_HEADER.size + len(attributes), 0, 0, 2, 0, _RXE, 0)
    try:
        fcntl.ioctl(device, _VERBS_IOCTL, bytearray(header + attributes))
    except OSError:
        return False
    return True


def break_queue_pairs(pid: int) -> int:
    """Puts the latest queue pair of another process, the one that it talks by, into the state of
    error, through a copy of its descriptor of the device, and returns of how many devices: what a
    device does by itself after too many time-outs, or when it is refused access to memory."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    broken = 0
    process = os.pidfd_open(pid)
    try:
        for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            if "/dev/infiniband/uverbs" not in os.readlink(entry):
                continue
            copy = syscall(_PIDFD_GETFD, process, int(entry.name), 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), f"pidfd_getfd of pid {pid}")
            broken += any(_break(copy, handle) for handle in reversed(range(_MOST_HANDLES)))
            os.close(copy)
    finally:
        os.close(process)
    return broken


def missing() -> str:
    """Why there are no such hosts here."""
    if not pathlib.Path("/sys/class/infiniband/rxe1").exists():
        return "needs the RDMA devices of tests/vm: tests/vm/run.sh -- python -m tests.trace.faults"
    if not (SYSTEM_UCX / "ucx/libuct_ib.so.0").exists():
        return "needs a UCX with verbs: libucx0"
    return can_make()
