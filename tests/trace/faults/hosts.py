"""Two hosts on one machine: namespaces joined by a veth pair, and what goes wrong between them."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

from tests.trace.faults.processes import wait_until

SOURCE = pathlib.Path(__file__).with_name("drop.bpf.c")
ESTABLISHED = "01"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def clang() -> str | None:
    names = ["clang", *(f"clang-{version}" for version in range(20, 13, -1))]
    return next((name for name in names if shutil.which(name)), None)


class Hosts:
    """Namespaces `a` and `b`; the link of b is the one that is disturbed. Used as a context."""

    address = {"a": "10.84.0.1", "b": "10.84.0.2"}

    def __init__(self) -> None:
        tag = f"{os.getpid() % 100_000}"
        self.names = {"a": f"fault-a{tag}", "b": f"fault-b{tag}"}
        self.link = {"a": f"fa{tag}", "b": f"fb{tag}"}

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        for name in self.names.values():
            run("ip", "netns", "add", name)
        run("ip", "link", "add", self.link["a"], "netns", self.names["a"], "type", "veth",
            "peer", "name", self.link["b"], "netns", self.names["b"])  # fmt: skip
        for host in "ab":
            at = ("ip", "-n", self.names[host])
            run(*at, "addr", "add", f"{self.address[host]}/24", "dev", self.link[host])
            run(*at, "link", "set", self.link[host], "up")
            run(*at, "link", "set", "lo", "up")
            # bbr, the default of some kernels, paces: throughput then depends on write sizes.
            self.on(host, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control=reno")
        wait_until(lambda: self._is_up("a") and self._is_up("b"), 5, "carrier of the veth pair")

    def close(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def on(self, host: str, *command: str) -> str:
        return run("ip", "netns", "exec", self.names[host], *command)

    def _is_up(self, host: str) -> bool:
        at = ("ip", "-n", self.names[host], "-br", "link", "show", self.link[host])
        return " UP " in run(*at)

    def launcher(self) -> list[str]:
        return ["ip", "netns", "exec", self.names["a"]]

    def options(self, ranks_each: int) -> list[str]:
        a, b = self.names["a"], self.names["b"]
        return [
            "--hosts", f"{a}:{ranks_each},{b}:{ranks_each}", "--agent", "ip netns exec {host}",
            "--address", self.address["a"], "--env", "SHOAL_NETWORK=tcp",
        ]  # fmt: skip

    # ---- what can go wrong

    @contextlib.contextmanager
    def dropping(self, percent: int, direction: str, port: int = 0) -> Iterator[None]:
        """Loses a share of the packets at b's link: all TCP packets, or one connection's, named by
        its port at a. `direction`: "egress" or "ingress"."""
        compiler = clang()
        assert compiler is not None  # the catalog has asked
        with tempfile.TemporaryDirectory() as directory:
            program = f"{directory}/drop.o"
            run(compiler, "-O2", "-g", "-target", "bpf", f"-DPERCENT={percent}", f"-DPORT={port}",
                "-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu",
                "-c", str(SOURCE), "-o", program)  # fmt: skip
            at = ("dev", self.link["b"])
            self.on("b", "tc", "qdisc", "add", *at, "clsact")
            try:
                self.on("b", "tc", "filter", "add", *at, direction, "bpf", "direct-action",
                        "obj", program, "sec", "classifier")  # fmt: skip
                yield
            finally:
                self.on("b", "tc", "qdisc", "del", *at, "clsact")

    @contextlib.contextmanager
    def netem(self, *what: str) -> Iterator[None]:
        at = ("dev", self.link["b"], "root", "netem", *what)
        self.on("b", "tc", "qdisc", "add", *at)
        try:
            yield
        finally:
            self.on("b", "tc", "qdisc", "del", "dev", self.link["b"], "root")

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        at = ("ip", "-n", self.names["b"], "link", "set", self.link["b"])
        run(*at, "down")
        try:
            yield
        finally:
            run(*at, "up")
            wait_until(lambda: self._is_up("b"), 5, "the link is up again")


def _sockets(pid: int) -> set[tuple[str, str]]:
    """(local, remote) of the process's TCP connections, in the notation of /proc/net/tcp."""
    inodes = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    lines = pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {(r[1], r[2]) for r in rows if r[3] == ESTABLISHED and r[9] in inodes}


def connection(hosts: Hosts, pid_a: int, pid_b: int) -> int | None:
    """The port at a's end of the connection by which two ranks exchange data; None if they have
    none. (b's port is the one it listens at, the same for several; and ranks have other connections
    than for data, which are silent.)"""
    at_b = _sockets(pid_b)
    ports = [_port(here) for here, there in _sockets(pid_a) if (there, here) in at_b]
    sent = {}
    for line in hosts.on("a", "ss", "-tnHOi").splitlines():
        port = int(line.split()[3].rpartition(":")[2])
        found = re.search(r" bytes_sent:(\d+)", line)
        sent[port] = int(found[1]) if found else 0
    return max(ports, key=lambda port: sent.get(port, 0), default=None)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def can_make() -> str:
    """Why there are no two hosts here; "" if there are."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs ip and tc (iproute2)"
    return ""


@functools.cache
def has_netem() -> bool:
    done = subprocess.run(
        ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms"],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        run("tc", "qdisc", "del", "dev", "lo", "root")
    return done.returncode == 0
