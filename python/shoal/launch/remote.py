"""The ranks of another host, as the launcher sees them: an agent behind ssh."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, BinaryIO

from shoal.launch import wire
from shoal.launch.host import OWN_GROUP
from shoal.launch.job import Events, HostJob, RankExit

DEFAULT_AGENT = "ssh -o BatchMode=yes {host}"
READY_SECONDS = 30.0  # to log in and start Python
_READ_BYTES = 1 << 16
_KEPT_STDERR = 4096
# ssh hands its arguments to a shell, `ip netns exec` does not: only what reads the same in both.
_PLAIN = re.compile(r"[\w@%+=:,./-]+")


def agent_command(template: str, host: str, python: str) -> list[str]:
    """The template's words with the host in place of {host} (or behind them)."""
    words = [word.replace("{host}", host) for word in shlex.split(template)]
    if "{host}" not in template:
        words.append(host)
    path = os.environ.get("PYTHONPATH", "")  # the agent itself must find this package
    if _PLAIN.fullmatch(path):
        words += ["env", f"PYTHONPATH={path}"]
    return [*words, python, "-m", "shoal.launch.agent"]


class RemoteHost:
    def __init__(
        self,
        name: str,
        command: list[str],
        job: HostJob,
        events: Events,
        selector: selectors.BaseSelector,
    ) -> None:
        self.name = name
        self.ready = False
        self._command = command
        self._job = job
        self._events = events
        self._selector = selector
        self._running = set(job.ranks)
        self._lines = wire.Lines()
        self._stderr = b""
        self._error = ""  # what the agent said of itself
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: dict[str, BinaryIO] = {}

    def start(self) -> None:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                **OWN_GROUP,  # Ctrl-C goes to the ranks through us, once
            )
        except OSError as error:
            self._lose(f"cannot start {self._command[0]}: {error.strerror}; see --agent")
            return
        self._process = process
        for name, pipe, read in (
            ("stdout", process.stdout, self._read_stdout),
            ("stderr", process.stderr, self._read_stderr),
        ):
            stream: BinaryIO = pipe  # type: ignore[assignment]
            self._streams[name] = stream
            self._selector.register(stream, selectors.EVENT_READ, read)
        self._send(wire.encode("start", **asdict(self._job)))

    def signal(self, number: int) -> None:
        self._send(wire.encode("signal", number=number))

    def give_up(self, reason: str) -> None:
        self._lose(reason)

    def close(self) -> None:
        """The end of its input makes the agent kill what still runs."""
        for name in list(self._streams):
            self._drop(name)
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # a dead agent is seen by the end of its output
            self._process.stdin.write(line)

    def _read_stdout(self) -> None:
        data = os.read(self._streams["stdout"].fileno(), _READ_BYTES)
        if not data:
            self._drop("stdout")
            self._drain_stderr()
            self._lose(self._why())
            return
        try:
            lines = self._lines.feed(data)
        except ValueError as error:
            self._lose(f"agent: {error}")
            return
        for line in lines:
            self._obey(line)

    def _read_stderr(self) -> None:
        data = os.read(self._streams["stderr"].fileno(), _READ_BYTES)
        if not data:
            self._drop("stderr")
        self._stderr = (self._stderr + data)[-_KEPT_STDERR:]

    def _drain_stderr(self) -> None:
        """The agent's last words, as far as they have come; no waiting for those who hold on."""
        if "stderr" not in self._streams:
            return
        os.set_blocking(self._streams["stderr"].fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while "stderr" in self._streams:  # ends: _KEPT_STDERR may pass, a pipe empties
                self._read_stderr()

    def _obey(self, line: bytes) -> None:
        message = wire.decode(line)
        if message is None:
            return  # a greeting
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "ready": self._on_ready,
            "started": lambda m: self._events.started(int(m["rank"]), int(m["pid"])),
            "output": lambda m: self._events.output(
                int(m["rank"]), m["stream"], wire.bytes_of(m["data"])
            ),
            "ended": self._on_ended,
            "error": self._on_error,
        }
        handler = handlers.get(message.pop("type"))
        if handler is None:
            self._lose("its agent speaks another language; install the same shoal on all hosts")
            return
        handler(message)

    def _on_ready(self, _: dict[str, Any]) -> None:
        self.ready = True

    def _on_ended(self, message: dict[str, Any]) -> None:
        end = RankExit(**message)
        self._running.discard(end.rank)
        self._events.ended(end)

    def _on_error(self, message: dict[str, Any]) -> None:
        self._error = str(message["text"])

    def _why(self) -> str:
        said = self._error or self._stderr.decode(errors="replace").strip().replace("\n", "; ")
        code = self._exit_code()
        ended = f"its agent ended with code {code}" if code is not None else "its agent hung up"
        what = ended if self.ready else f"host cannot be reached: {ended}"
        said = said or "it said nothing; try: " + shlex.join(self._command) + " </dev/null"
        return f"{what}: {said}"

    def _exit_code(self) -> int | None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=1)
        return None

    def _lose(self, reason: str) -> None:
        lost, self._running = self._running, set()
        if lost:
            self._events.lost(self.name, sorted(lost), reason)

    def _drop(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is not None:
            self._selector.unregister(stream)
            stream.close()


def interpreter() -> str:
    """The Python the agent runs in: ours, at the same path."""
    return sys.executable
