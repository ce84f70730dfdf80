"""Running ranks and the line to them. What is started here is ended here, by its process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .libraries import Library, Line, Placement, Process

_START_SECONDS = 60.0  # from a library's launch until its last rank has said hello
_COMMAND_SECONDS = 30.0  # of a command that moves no data
_GRACE_SECONDS = 5.0  # to leave in order
_CONTROL_BYTES = 1 << 20  # of a rank's shared memory, beside its two buffers
_PEERCRED = struct.Struct("3i")  # pid, uid, gid
_KEPT_LOG = 400  # characters of a library's last words


class LibraryFailed(Exception):
    """A library did not start, is gone, or answered with an error."""


class TooSlow(LibraryFailed):
    """It did not answer in time, and has been ended."""


@dataclass
class _Rank:
    stream: socket.socket
    pidfd: int
    pending: bytes = b""

    def read_line(self, deadline: float) -> str:
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.stream.settimeout(left)
            data = self.stream.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode(errors="replace")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        self.stream.close()
        os.close(self.pidfd)


@dataclass
class Running:
    """One library whose ranks wait for commands."""

    library: Library
    version: str
    log: Path
    launchers: list[subprocess.Popen[bytes]]
    ranks: list[_Rank] = field(default_factory=list)
    is_alive: bool = True

    @property
    def name(self) -> str:
        return self.library.name

    def prepare(self, op: str, size: int, buffer: str) -> None:
        self.ask(f"prepare {op} {size} {buffer}", _COMMAND_SECONDS)

    def time(
        self, block: int, warmup: int, repetitions: int, verify: bool, seconds: float
    ) -> list[int]:
        """Nanoseconds of each repetition's block of calls, of the slowest rank."""
        command = f"time {block} {warmup} {repetitions} {int(verify)}"
        answers = self.ask(command, seconds)
        return [max(times) for times in zip(*(map(int, a.split()) for a in answers), strict=True)]

    def release(self) -> None:
        self.ask("release", _COMMAND_SECONDS)

    def ask(self, command: str, seconds: float) -> list[str]:
        """Every rank's answer. One that is late or gone ends the library."""
        if not self.is_alive:
            raise LibraryFailed("it has been ended")
        deadline = time.monotonic() + seconds
        what = f"{self.name}: {command}"
        answers = []
        try:
            for rank in self.ranks:
                rank.stream.sendall(f"{command}\n".encode())
            for rank in self.ranks:
                answers.append(rank.read_line(deadline))
        except TimeoutError:
            self.kill()
            raise TooSlow(f"no answer within {seconds:g} s") from None
        except OSError:
            self.kill()
            raise LibraryFailed(f"{what}: a rank is gone; {last_words(self.log)}") from None
        refusals = [a.removeprefix("error ") for a in answers if not a.startswith("ok")]
        if refusals:
            raise LibraryFailed(f"{what}: {refusals[0]}")
        return [answer.removeprefix("ok") for answer in answers]

    def quit(self) -> None:
        """Lets the ranks leave their job in order; kills what has not after a grace."""
        with contextlib.suppress(OSError):
            for rank in self.ranks:
                rank.stream.sendall(b"quit\n")
        deadline = time.monotonic() + _GRACE_SECONDS
        with contextlib.suppress(subprocess.TimeoutExpired):
            for launcher in self.launchers:
                launcher.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        self.is_alive = False
        end(self.launchers)
        for rank in self.ranks:
            rank.kill()
            rank.close()
        self.ranks.clear()


def end(launchers: list[subprocess.Popen[bytes]]) -> None:
    """A launcher that is asked ends its ranks too; one that does not is killed."""
    for launcher in launchers:
        if launcher.poll() is None:
            launcher.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for launcher in launchers:
        try:
            launcher.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()


def last_words(log: Path) -> str:
    text = log.read_text(errors="replace").strip()[-_KEPT_LOG:]
    return f"its last words: {text}" if text else "it said nothing"


class Session:
    """The libraries of one placement. Use as a context manager: what it started ends with it."""

    def __init__(self, placement: Placement, largest: int, logs: Path) -> None:
        self.placement = placement
        self.running: dict[str, Running] = {}
        self._logs = logs
        self._folder = tempfile.TemporaryDirectory(prefix="shoal-bench-")
        rank_bytes = 2 * largest + _CONTROL_BYTES
        self._memory = _shared_memory("direct", rank_bytes * placement.ranks)
        self._line = Line(Path(self._folder.name), path_of(self._memory))
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self._line.socket))
        self._server.listen(placement.ranks)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for running in self.running.values():
            running.quit() if kind is None else running.kill()
        self._server.close()
        os.close(self._memory)
        self._folder.cleanup()

    def start(self, library: Library) -> Running:
        """Starts its ranks and waits until all of them wait for commands."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{library.name}.log"
        with log.open("wb") as output:
            launchers = [
                _launch(process, output.fileno())
                for process in library.processes(self.placement, self._line)
            ]
        running = Running(library, "", log, launchers)
        try:
            self._welcome(running)
        except BaseException:
            running.kill()
            raise
        self.running[library.name] = running
        return running

    def _welcome(self, running: Running) -> None:
        ranks = self.placement.ranks
        arrived: dict[int, _Rank] = {}
        deadline = time.monotonic() + _START_SECONDS
        self._server.settimeout(0.2)
        while len(arrived) < ranks:
            try:
                number, version, rank = self._accept(running.name, deadline)
            except TimeoutError:
                self._check(running, ranks - len(arrived), deadline)
                continue
            arrived[number] = rank
            running.version = " ".join(version.split())
        running.ranks = [arrived[number] for number in range(ranks)]
        barrier = _shared_memory("barrier", os.sysconf("SC_PAGESIZE") * ranks)
        try:
            self._give_cores(running, path_of(barrier))
        finally:
            os.close(barrier)  # the ranks have mapped it

    def _accept(self, name: str, deadline: float) -> tuple[int, str, _Rank]:
        stream, _ = self._server.accept()
        credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        pid, _, _ = _PEERCRED.unpack(credentials)
        rank = _Rank(stream, os.pidfd_open(pid))
        word, library, number, ranks, version = rank.read_line(deadline).split(" ", 4)
        if (word, library, int(ranks)) != ("hello", name, self.placement.ranks):
            rank.kill()
            rank.close()
            raise LibraryFailed(f"{name}: got `{word} {library} {number} of {ranks}` instead")
        return int(number), version, rank

    def _check(self, running: Running, missing: int, deadline: float) -> None:
        ended = [p.returncode for p in running.launchers if p.poll() is not None]
        if ended:
            raise LibraryFailed(
                f"{running.name}: ended with code {ended[0]} before it began; "
                + last_words(running.log)
            )
        if time.monotonic() > deadline:
            raise LibraryFailed(
                f"{running.name}: {missing} ranks not there after {_START_SECONDS:g} s; "
                + last_words(running.log)
            )

    def _give_cores(self, running: Running, barrier: Path) -> None:
        spin = int(not self.placement.is_crowded)
        for number, rank in enumerate(running.ranks):
            core = self.placement.core(number)
            rank.stream.sendall(f"start {core} {spin} {barrier}\n".encode())
        for rank in running.ranks:
            answer = rank.read_line(time.monotonic() + _COMMAND_SECONDS)
            if answer != "ok":
                raise LibraryFailed(f"{running.name}: cannot start: {answer}")


# Ctrl-C comes to us, and we end them. Not a session each: with sched_autogroup, sched_yield gives
# way within a session only, and ranks that share a core would wait a time slice for one another.
_OWN_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
)


def _launch(process: Process, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        process.argv,
        env={**os.environ, **process.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        **_OWN_GROUP,
    )


def _shared_memory(name: str, size: int) -> int:
    fd = os.memfd_create(f"shoal-bench-{name}", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def path_of(fd: int) -> Path:
    """A path by which another process of this user opens the same memory."""
    return Path(f"/proc/{os.getpid()}/fd/{fd}")
