"""The ranks of this machine: started, watched, signalled. Used by the launcher and by an agent."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shoal.launch.job import (
    LOCAL,
    Events,
    HostJob,
    RankExit,
    cores_of,
    own_environment,
    threads_of,
)
from shoal.launch.oom import OomWatch

CANNOT_START = 127  # as a shell returns it
_READ_BYTES = 1 << 16
_REAP_SECONDS = 1.0
_MAX_DRAIN_READS = 1024  # what a dead rank's pipe can still hold, many times over


def secret_fd(secret: str) -> int:
    """A memory file holding the secret, at offset 0. One for each rank: they share no offset."""
    fd = os.memfd_create("shoal-secret", 0)
    os.write(fd, secret.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


# A process group of its own, so that Ctrl-C goes to it through us, and its children can be ended
# with it. Not a session of its own: with sched_autogroup (most distributions) a session is what
# shares the processor, sched_yield gives way within it only, and ranks that share a core would wait
# a time slice for one another: 200 us for a barrier of four ranks on two cores, not 2.
OWN_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
)


class Guard:
    """Outlives us just long enough to kill what we started (guard.py)."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("guard.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is not for it
        )

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class _Child:
    rank: int
    process: subprocess.Popen[bytes]
    pidfd: int
    streams: dict[str, BinaryIO] = field(default_factory=dict)
    killed_by_us: bool = False


class LocalHost:
    """Each rank leads a process group of its own, so that a signal reaches its children too."""

    def __init__(
        self,
        job: HostJob,
        events: Events,
        selector: selectors.BaseSelector,
        stdin_is_free: bool = True,  # an agent's is its line to the launcher
    ) -> None:
        self.name = LOCAL
        self._stdin_is_free = stdin_is_free
        self._job = job
        self._events = events
        self._selector = selector
        self._children: dict[int, _Child] = {}
        self._oom = OomWatch()
        self._guard = Guard()

    @property
    def running(self) -> bool:
        return bool(self._children)

    def start(self) -> None:
        for local_rank, rank in enumerate(self._job.ranks):
            try:
                self._spawn(local_rank, rank)
            except OSError as error:
                what = error.filename or self._job.command[0]
                note = f"cannot start {what}: {error.strerror}"
                self._events.ended(RankExit(rank, None, CANNOT_START, note))

    def signal(self, number: int) -> None:
        for child in self._children.values():
            child.killed_by_us |= number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, number)

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        for child in self._children.values():
            self._release(child)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that not even that ends
                child.process.wait(timeout=_REAP_SECONDS)
        self._children.clear()
        self._guard.close()

    # ---- starting

    def _spawn(self, local_rank: int, rank: int) -> None:
        secret = secret_fd(self._job.secret)
        pipe = subprocess.PIPE if self._job.relay else None
        try:
            with _bound(self._cores(local_rank)):
                process = subprocess.Popen(
                    self._job.command,
                    cwd=self._job.cwd,
                    env=self._environment(local_rank, secret),
                    stdin=self._stdin(rank),
                    stdout=pipe,
                    stderr=pipe,
                    pass_fds=(secret,),
                    bufsize=0,
                    **OWN_GROUP,
                )
        finally:
            os.close(secret)
        self._guard.watch(process.pid)
        self._watch(rank, process)
        self._events.started(rank, process.pid)

    def _stdin(self, rank: int) -> int | None:
        """Rank 0 may read a pipe or a file; a terminal would stop it, it is in the background."""
        if rank == 0 and self._stdin_is_free and _readable_stdin():
            return None
        return subprocess.DEVNULL

    def _cores(self, local_rank: int) -> set[int] | None:
        if not self._job.bind:
            return None
        return cores_of(local_rank, len(self._job.ranks), os.sched_getaffinity(0))

    def _environment(self, local_rank: int, secret: int) -> dict[str, str]:
        return {
            "PYTHONUNBUFFERED": "1",  # a pipe would hold the output back
            "OMP_NUM_THREADS": str(threads_of(len(self._job.ranks))),
            # A stream that waits for another rank holds up those it shares a queue of the GPU with;
            # the driver makes 8 queues unless told, and 32 at most.
            "CUDA_DEVICE_MAX_CONNECTIONS": "32",
            **own_environment(os.environ),
            **self._job.environment_of(local_rank),
            "SHOAL_SECRET_FD": str(secret),
        }

    # ---- watching

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        child = _Child(rank, process, os.pidfd_open(process.pid))
        self._children[rank] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._reap(child))
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            if stream is None:
                continue
            os.set_blocking(stream.fileno(), False)
            pipe: BinaryIO = stream  # type: ignore[assignment]
            child.streams[name] = pipe
            self._selector.register(
                pipe, selectors.EVENT_READ, lambda name=name: self._read(child, name)
            )

    def _read(self, child: _Child, name: str) -> bool:
        """Relays what is there. False: nothing for now, or the end."""
        stream = child.streams.get(name)
        if stream is None:
            return False
        try:
            data = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(child.streams.pop(name))
            stream.close()
            return False
        self._events.output(child.rank, name, data)
        return True

    def _reap(self, child: _Child) -> None:
        for name in list(child.streams):
            for _ in range(_MAX_DRAIN_READS):
                if not self._read(child, name):
                    break
        # While its zombie holds the number, the group is its own: sweep what it left behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        status = child.process.wait()
        self._guard.forget(child.process.pid)
        self._release(child)
        del self._children[child.rank]
        self._events.ended(
            RankExit(child.rank, child.process.pid, status, self._note(child, status))
        )

    def _note(self, child: _Child, status: int) -> str:
        if status != -signal.SIGKILL or child.killed_by_us or not self._oom.killed():
            return ""
        return "out of memory: the kernel's count of such kills in this cgroup has grown"

    def _release(self, child: _Child) -> None:
        for stream in child.streams.values():
            self._selector.unregister(stream)
            stream.close()
        child.streams.clear()
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)


def _readable_stdin() -> bool:
    try:
        return not os.isatty(0)
    except OSError:
        return False


@contextlib.contextmanager
def _bound(cores: set[int] | None) -> Iterator[None]:
    """Children started inside run on these cores from their first instruction on."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
