"""The rank processes of one host: started, bound to cores, read, waited for."""

from __future__ import annotations

import ctypes
import os
import pathlib
import queue
import selectors
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

READ_BYTES = 65536
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Output:
    """One line of a rank, with its line end ("\\r" for progress bars)."""

    rank: int
    stream: str  # "stdout" or "stderr"
    text: str


@dataclass(frozen=True)
class Started:
    rank: int
    host: str
    pid: int


@dataclass(frozen=True)
class Exited:
    """A rank has ended. `returncode` as subprocess has it; `oom`: the kernel killed for memory."""

    rank: int
    returncode: int
    oom: bool


@dataclass(frozen=True)
class Lost:
    """A host cannot be reached (any more)."""

    host: str
    reason: str


Event = Output | Started | Exited | Lost


@dataclass(frozen=True)
class Job:
    """What one host needs to know to run its ranks. Everything but the secret may be shown."""

    command: list[str]
    ranks: list[int]
    world_size: int
    store: str
    job: str
    bind: bool
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = ""


class Host(Protocol):
    """Where ranks run. Events go to the queue given at construction."""

    def start(self) -> None: ...
    def signal(self, number: int) -> None: ...
    def close(self) -> None: ...


def _die_with_parent() -> None:
    """In the child, before exec: end when the launcher ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def secret_fd(secret: str) -> int:
    """A memory file that one rank inherits and reads: the secret is on no command line, in no
    environment and on no disk."""
    fd = os.memfd_create("shoal-secret")
    os.write(fd, secret.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _oom_kills() -> int:
    """How often the kernel has killed in this process's memory cgroup so far."""
    try:
        group = pathlib.Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2]
        events = pathlib.Path("/sys/fs/cgroup" + group, "memory.events").read_text()
    except (OSError, IndexError):
        return 0
    return next(
        (int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill ")), 0
    )


class _Lines:
    """Cuts what a pipe gives into lines; a carriage return ends one too."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        self._rest += data
        lines, begin = [], 0
        for i, byte in enumerate(self._rest):
            following = self._rest[i + 1 : i + 2]
            if byte == 0x0A or (byte == 0x0D and following != b"\n"):
                lines.append(self._rest[begin : i + 1].decode(errors="replace"))
                begin = i + 1
        self._rest = self._rest[begin:]
        return lines

    def end(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace") + "\n"] if rest else []


class LocalHost:
    """The ranks on this host. One thread reads all of them and waits for all of them."""

    def __init__(self, job: Job, secret: str, name: str, events: queue.Queue[Event]) -> None:
        self._job = job
        self._secret = secret
        self._name = name
        self._events = events
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._selector = selectors.DefaultSelector()
        self._lines: dict[tuple[int, str], _Lines] = {}
        self._oom_before = _oom_kills()

    def start(self) -> None:
        """Starts all ranks; they die with the calling thread's process."""
        try:
            for local_rank, rank in enumerate(self._job.ranks):
                fd = secret_fd(self._secret)
                try:
                    self._spawn(rank, local_rank, fd)
                finally:
                    os.close(fd)
        except OSError as error:
            self.signal(signal.SIGKILL)
            command = self._job.command[0]
            self._events.put(Lost(self._name, f"cannot start {command}: {error.strerror}"))
        threading.Thread(target=self._watch, daemon=True).start()

    def signal(self, number: int) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def close(self) -> None:
        self.signal(signal.SIGKILL)

    def _environment(self, rank: int, local_rank: int, fd: int) -> dict[str, str]:
        environment = dict(os.environ)
        environment.update(self._job.environment)
        cores = len(os.sched_getaffinity(0))
        # As torchrun does: ranks share the cores, and each library would start a thread for each.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // len(self._job.ranks))))
        environment.update(
            SHOAL_RANK=str(rank),
            SHOAL_WORLD_SIZE=str(self._job.world_size),
            SHOAL_LOCAL_RANK=str(local_rank),
            SHOAL_LOCAL_SIZE=str(len(self._job.ranks)),
            SHOAL_STORE=self._job.store,
            SHOAL_JOB=self._job.job,
            SHOAL_SECRET_FD=str(fd),
        )
        return environment

    def _spawn(self, rank: int, local_rank: int, fd: int) -> None:
        process = subprocess.Popen(
            self._job.command,
            env=self._environment(rank, local_rank, fd),
            cwd=self._job.directory or None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(fd,),
            start_new_session=True,  # Ctrl-C reaches the launcher, which passes it on once
            preexec_fn=_die_with_parent,
        )
        self._processes[rank] = process
        cores = sorted(os.sched_getaffinity(0))
        if self._job.bind and len(self._job.ranks) <= len(cores):
            os.sched_setaffinity(process.pid, {cores[local_rank]})
        for stream, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._lines[rank, stream] = _Lines()
            self._selector.register(pipe, selectors.EVENT_READ, (rank, stream))
        self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, (rank, "exit"))
        self._events.put(Started(rank, self._name, process.pid))

    def _watch(self) -> None:
        running = len(self._processes)
        while running > 0:
            for key, _ in self._selector.select():
                rank, what = key.data
                if what == "exit":
                    self._selector.unregister(key.fileobj)
                    os.close(key.fd)
                    self._end(rank)
                    running -= 1
                else:
                    self._read(rank, what, key.fileobj)

    def _read(self, rank: int, stream: str, pipe: Any) -> bool:
        """Passes on what is there; False when there is no more (for now)."""
        try:
            data = os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        lines = self._lines[rank, stream]
        for text in lines.feed(data) if data else lines.end():
            self._events.put(Output(rank, stream, text))
        if not data:
            self._selector.unregister(pipe)
            pipe.close()
        return bool(data)

    def _end(self, rank: int) -> None:
        process = self._processes[rank]
        returncode = process.wait()
        for stream, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            # A grandchild may hold the pipe open: what is in it now is the rank's.
            while pipe is not None and not pipe.closed and self._read(rank, stream, pipe):
                pass
        oom = returncode == -signal.SIGKILL and _oom_kills() > self._oom_before
        self._events.put(Exited(rank, returncode, oom))


