"""What the eBPF programs of `shoal-tracer` (bpf/) see: its JSON lines, read by a thread.

The program is a process of its own with its own privileges; where it is missing or may not do
something, `missing` says what, why, and what to do, and a verdict is made of the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_EVENTS = 4096  # signals kept; older ones are forgotten
_HELLO_S = 10.0


@dataclass(frozen=True)
class Preemptor:
    pid: int
    tid: int
    comm: str
    ns: int  # on the core, while the other thread was runnable there


@dataclass(frozen=True)
class KernelThread:
    """One thread since the tracer was attached; times are totals."""

    pid: int
    tid: int
    state: str
    since_ns: int  # CLOCK_MONOTONIC of entering that state
    waiting_ns: int
    preempted_by: tuple[Preemptor, ...]
    stack: tuple[str, ...]  # kernel functions of the present or last sleep, innermost first
    syscall: str  # the one it is in; ""
    syscall_since_ns: int
    syscalls: dict[str, tuple[int, int]]  # name -> (calls, ns)


@dataclass(frozen=True)
class Signal:
    t_ns: int
    pid: int
    number: int
    name: str
    sender_pid: int
    sender_comm: str


@dataclass(frozen=True)
class KernelLink:
    """What was sent again on a connection since the tracer was attached."""

    retransmits: int
    lost_at_ns: int  # CLOCK_MONOTONIC of the last one


@dataclass(frozen=True)
class Carried:
    """Calls of TCP sockets that carried something, and their bytes."""

    sends: int
    sent_bytes: int
    receives: int
    received_bytes: int


@dataclass(frozen=True)
class CgroupUse:
    """Of a control group of version 2 since a rank was first seen in it."""

    path: str
    pids: tuple[int, ...]  # of the ranks in it now
    ranks: Carried
    others: Carried  # in the same group
    on_cpu_ns: int  # of the ranks' threads, in all
    waiting_ns: int
    off_cpu_ns: int  # asleep or stopped


@dataclass
class Sample:
    t_ns: int = 0
    threads: dict[int, KernelThread] = field(default_factory=dict)  # by tid
    # By (local, remote): of several network namespaces that have the same addresses, together.
    links: dict[tuple[str, str], KernelLink] = field(default_factory=dict)
    cgroups: tuple[CgroupUse, ...] = ()  # only with --cgroups
    raw: dict[str, Any] = field(default_factory=dict)


def _thread(entry: dict[str, Any]) -> KernelThread:
    inside = entry.get("in_syscall") or {}
    return KernelThread(
        pid=entry["pid"],
        tid=entry["tid"],
        state=entry["state"],
        since_ns=entry["since_ns"],
        waiting_ns=entry["waiting_ns"],
        preempted_by=tuple(
            Preemptor(one["pid"], one["tid"], one["comm"], one["ns"])
            for one in entry.get("preempted_by", ())
        ),
        stack=tuple(entry.get("stack", ())),
        syscall=inside.get("name", ""),
        syscall_since_ns=inside.get("since_ns", 0),
        syscalls={one["name"]: (one["count"], one["ns"]) for one in entry.get("syscalls", ())},
    )


def _links(entries: Iterable[dict[str, Any]]) -> dict[tuple[str, str], KernelLink]:
    links: dict[tuple[str, str], KernelLink] = {}
    for entry in entries:
        name = entry["local"], entry["remote"]
        same = links.get(name, KernelLink(0, 0))
        links[name] = KernelLink(
            same.retransmits + entry["retransmits"], max(same.lost_at_ns, entry["lost_at_ns"])
        )
    return links


def _cgroup(entry: dict[str, Any]) -> CgroupUse:
    ranks, others = Carried(**entry["ranks"]), Carried(**entry["others"])
    times = {name: entry[name] for name in ("on_cpu_ns", "waiting_ns", "off_cpu_ns")}
    return CgroupUse(entry["path"], tuple(entry["pids"]), ranks, others, **times)


def parse_sample(entry: dict[str, Any]) -> Sample:
    return Sample(
        t_ns=entry["t_ns"],
        threads={one["tid"]: _thread(one) for one in entry.get("threads", ())},
        links=_links(entry.get("links", ())),
        cgroups=tuple(_cgroup(one) for one in entry.get("cgroups", ())),
        raw=entry,
    )


def find_program() -> pathlib.Path | None:
    """shoal-tracer of this package; SHOAL_TRACER names another one."""
    named = os.environ.get("SHOAL_TRACER")
    path = pathlib.Path(named) if named else pathlib.Path(__file__).parents[1] / "bin/shoal-tracer"
    return path if path.exists() else None


class Kernel:
    """A running shoal-tracer, or the reason why there is none. Any thread."""

    def __init__(self, pids: Iterable[int], options: Iterable[str] = ()) -> None:
        self.missing: list[str] = []
        self._pids = set(pids)
        self._signals: deque[Signal] = deque(maxlen=_EVENTS)
        self._sample = Sample()
        self._greeted = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        program = find_program()
        if program is None:
            self.missing.append(
                "the kernel's view (who preempts, signals and their senders, system calls): this "
                "package was built without shoal-tracer; install clang, bpftool and libbpf-dev and "
                "build again"
            )
            return
        named = [word for pid in self._pids for word in ("--pid", str(pid))]
        self._process = subprocess.Popen(
            [str(program), *named, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, name="shoal-tracer", daemon=True).start()
        if not self._greeted.wait(_HELLO_S):
            self.missing.append(f"shoal-tracer did not answer within {_HELLO_S:.0f} s")

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))
        if not self._greeted.is_set():
            assert self._process.stderr is not None
            self.missing.append(f"shoal-tracer ended: {self._process.stderr.read().strip()}")
        self._greeted.set()

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry.get("type")
        if kind == "hello":
            for one in entry.get("missing", ()):
                self.missing.append(f"{one['what']}: {one['why']}; {one['do']}")
            self._greeted.set()
        elif kind == "sample":
            self._sample = parse_sample(entry)
        elif kind == "signal":
            self._signals.append(
                Signal(
                    entry["t_ns"], entry["pid"], entry["signal"], entry["name"],
                    entry["sender_pid"], entry["sender_comm"],
                )
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def watch(self, pids: Iterable[int]) -> None:
        """Further processes."""
        new = set(pids) - self._pids
        self._pids |= new
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # it has ended
            for pid in new:
                self._process.stdin.write(f"pid {pid}\n")
            self._process.stdin.flush()

    def look_at_syscalls(self, on: bool) -> None:
        """They cost the watched processes something: only while there is a reason to."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"syscalls {'on' if on else 'off'}\n")
            self._process.stdin.flush()

    def sample(self) -> Sample:
        """The last one."""
        return self._sample

    def next_sample(self, timeout_s: float = 0.5) -> Sample:
        """One that begins after this call, if it comes in time."""
        begin_ns = time.monotonic_ns()
        end = time.monotonic() + timeout_s
        while self.running and self._sample.t_ns < begin_ns and time.monotonic() < end:
            time.sleep(0.005)
        return self._sample

    def signals(self) -> list[Signal]:
        return list(self._signals)

    def close(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
