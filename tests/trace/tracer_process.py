"""A shoal-tracer that runs beside a test, and processes that do as they are told (workload.c)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 60  # a VM in software emulation is ten times slower
Line = dict[str, Any]


def find_tracer() -> pathlib.Path | None:
    """$SHOAL_TRACER, else the one of the installed package, else that of build/release."""
    if named := os.environ.get("SHOAL_TRACER"):
        return pathlib.Path(named)
    candidates = [ROOT / "build/release/bpf/shoal-tracer"]
    package = importlib.util.find_spec("shoal")
    if package is not None and package.origin is not None:
        candidates.insert(0, pathlib.Path(package.origin).parent / "bin/shoal-tracer")
    return next((path for path in candidates if path.exists()), None)


class Workload:
    """A process of workload.c."""

    def __init__(self, program: pathlib.Path, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.do("calls 0")  # it is there, and has touched the pages that every command touches

    def do(self, command: str) -> None:
        self.start(command)
        self.wait()

    def start(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Tracer:
    """Its lines are read by a thread, so that the tracer never waits for the test."""

    def __init__(self, program: pathlib.Path, *arguments: str, pids: tuple[int, ...] = ()) -> None:
        named = [part for pid in pids for part in ("--pid", str(pid))]
        self.process = subprocess.Popen(
            [str(program), *named, "--interval-ms", "50", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._arrived: queue.Queue[Line | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.lines: list[Line] = []
        self.hello = self.next()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self._arrived.put(json.loads(text))
        self._arrived.put(None)

    def next(self) -> Line:
        line = self._arrived.get(timeout=LIMIT_S)
        assert line is not None, f"the tracer has ended with status {self.process.wait()}"
        self.lines.append(line)
        return line

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def sample(self) -> Line:
        """The first sample that was taken after this call."""
        now = time.monotonic_ns()
        return self.until(lambda line: line["type"] == "sample" and line["t_ns"] > now)

    def until(self, wanted: Callable[[Line], Any], limit_s: float = LIMIT_S) -> Line:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if wanted(line := self.next()):
                return line
        raise AssertionError(f"not within {limit_s} s; last line: {self.lines[-1]}")

    def thread(self, pid: int, tid: int | None = None) -> Line:
        """Thread `tid` of a new sample; the first one of the process if none is named."""
        threads: list[Line] = self.sample()["threads"]
        return next(t for t in threads if t["pid"] == pid and t["tid"] == (tid or pid))

    def of_type(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line["type"] == kind]

    def end(self) -> int:
        """Ends it and reads all that it had to say."""
        with contextlib.suppress(BrokenPipeError):
            self.tell("quit")
        status = self.process.wait(LIMIT_S)
        while (line := self._arrived.get(timeout=LIMIT_S)) is not None:
            self.lines.append(line)
        return status

    def __enter__(self) -> Tracer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def two_namespaces(name: str) -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a pair of interfaces: 10.91.7.1 and 10.91.7.2."""
    names = (f"{name}-a", f"{name}-b")

    def ip(*arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=not check)

    for namespace in names:
        ip("netns", "delete", namespace, check=False)
        ip("netns", "add", namespace)
    try:
        ip("link", "add", "v0", "netns", names[0], "type", "veth", "peer", "v0", "netns", names[1])
        for number, namespace in enumerate(names, 1):
            ip("-n", namespace, "address", "add", f"10.91.7.{number}/24", "dev", "v0")
            ip("-n", namespace, "link", "set", "v0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
        yield names
    finally:
        for namespace in names:
            ip("netns", "delete", namespace, check=False)
