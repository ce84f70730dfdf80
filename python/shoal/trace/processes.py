"""What /proc says of a rank's threads, without privilege.

Every read may fail (the thread has ended, another user's): then there is no answer, never an error.
"""

from __future__ import annotations

import functools
import os
import pathlib
from dataclasses import dataclass, field

from shoal.trace.cgroups import Cgroup, read_cgroups, read_text


@dataclass(frozen=True)
class Thread:
    """One thread at one moment. Times are totals since it began."""

    tid: int
    name: str
    state: (
        str  # R running or runnable, S sleeping, D uninterruptible, T stopped, t traced, Z zombie
    )
    cpu: int  # the core it runs on, or ran on last
    on_cpu_ns: int
    waiting_ns: int  # runnable, while others had the core
    user_ticks: int  # of 1 / CLOCK_TICKS s
    system_ticks: int
    minor_faults: int
    major_faults: int
    syscall: int = -1  # number of the system call it is in; -1: none, or unknown
    syscall_arguments: tuple[int, ...] = ()
    wait_channel: str = ""  # kernel function it sleeps in; "": none, or unknown


@dataclass(frozen=True)
class Process:
    pid: int
    threads: dict[int, Thread] = field(default_factory=dict)  # by tid; empty: it is gone
    cgroups: tuple[Cgroup, ...] = ()  # its own and those above it that have a quota
    tracer: int = 0  # pid of a debugger

    @property
    def gone(self) -> bool:
        main = self.threads.get(self.pid)
        return not self.threads or (main is not None and main.state in "ZX")


CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def _syscall(text: str) -> tuple[int, tuple[int, ...]]:
    """`NUMBER ARGUMENT... SP PC`, or "running"."""
    words = text.split()
    if len(words) < 9 or words[0].startswith("-"):
        return -1, ()
    return int(words[0]), tuple(int(word, 16) for word in words[1:7])


def read_thread(pid: int, tid: int) -> Thread | None:
    folder = pathlib.Path(f"/proc/{pid}/task/{tid}")
    name, _, rest = read_text(folder / "stat").partition("(")[2].rpartition(")")
    fields = rest.split()
    if len(fields) < 37:
        return None
    times = read_text(folder / "schedstat").split()
    number, arguments = _syscall(read_text(folder / "syscall"))
    channel = read_text(folder / "wchan").strip()
    return Thread(
        tid=tid,
        name=name,
        state=fields[0],
        cpu=int(fields[36]),
        on_cpu_ns=int(times[0]) if len(times) == 3 else 0,
        waiting_ns=int(times[1]) if len(times) == 3 else 0,
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        syscall=number,
        syscall_arguments=arguments,
        wait_channel="" if channel == "0" else channel,
    )


def read_process(pid: int) -> Process:
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return Process(pid)
    threads = {tid: thread for tid in tids if (thread := read_thread(pid, tid)) is not None}
    status = read_text(pathlib.Path(f"/proc/{pid}/status"))
    tracer = next((line.split()[1] for line in status.splitlines() if "TracerPid" in line), "0")
    return Process(pid, threads, read_cgroups(pid), int(tracer))


def command(pid: int) -> str:
    """Its name, for people."""
    return read_text(pathlib.Path(f"/proc/{pid}/comm")).strip() or "?"


def environment(pid: int, name: str) -> str:
    """A variable that the process was started with; "" where it had none."""
    for entry in read_text(pathlib.Path(f"/proc/{pid}/environ")).split("\0"):
        key, _, value = entry.partition("=")
        if key == name:
            return value
    return ""


def read_core_users() -> dict[int, tuple[str, int, int]]:
    """Every thread of the machine: tid -> (name, core, nanoseconds on it so far)."""
    users = {}
    for task in pathlib.Path("/proc").glob("[0-9]*/task/[0-9]*"):
        name, _, rest = read_text(task / "stat").partition("(")[2].rpartition(")")
        fields = rest.split()
        times = read_text(task / "schedstat").split()
        if len(fields) >= 37 and len(times) == 3:
            users[int(task.name)] = (name, int(fields[36]), int(times[0]))
    return users


@functools.cache
def syscall_names() -> dict[int, str]:
    """Of the system calls that a verdict tells apart; x86-64 and arm64 number them differently."""
    x86 = {
        0: "read", 1: "write", 7: "poll", 9: "mmap", 11: "munmap", 16: "ioctl", 17: "pread64",
        18: "pwrite64", 19: "readv", 20: "writev", 23: "select", 25: "mremap", 28: "madvise",
        35: "nanosleep", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
        47: "recvmsg", 61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync",
        149: "mlock", 150: "munlock", 202: "futex", 230: "clock_nanosleep", 232: "epoll_wait",
        247: "waitid", 257: "openat", 270: "pselect6", 271: "ppoll", 281: "epoll_pwait",
        288: "accept4", 325: "mlock2",
    }  # fmt: skip
    arm = {
        25: "fcntl", 29: "ioctl", 32: "flock", 56: "openat", 63: "read", 64: "write", 65: "readv",
        66: "writev", 67: "pread64", 68: "pwrite64", 22: "epoll_pwait", 72: "pselect6",
        73: "ppoll", 82: "fsync", 83: "fdatasync", 95: "waitid", 98: "futex", 101: "nanosleep",
        115: "clock_nanosleep", 202: "accept", 203: "connect", 206: "sendto", 207: "recvfrom",
        211: "sendmsg", 212: "recvmsg", 215: "munmap", 216: "mremap", 222: "mmap", 228: "mlock",
        229: "munlock", 233: "madvise", 242: "accept4", 260: "wait4", 284: "mlock2",
    }  # fmt: skip
    return arm if os.uname().machine == "aarch64" else x86


def syscall_name(number: int) -> str:
    return "" if number < 0 else syscall_names().get(number, f"system call {number}")
