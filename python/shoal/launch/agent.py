"""One host's ranks, on behalf of a launcher elsewhere: ``python -m shoal.launch.agent``.

Started by ``shoal run --hosts`` through ssh or what --agent says; not for people. Standard input
and output are the line to the launcher (wire.py); the ranks get neither.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict

from shoal.launch import wire
from shoal.launch.host import LocalHost
from shoal.launch.job import HostJob, RankExit

_READ_BYTES = 1 << 16


class Reporter:
    """Events of the local ranks, as lines to the launcher."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, line: bytes) -> None:
        view = memoryview(line)
        while view:  # a pipe to ssh: takes all or blocks, and breaks when the launcher is gone
            view = view[os.write(self._fd, view) :]

    def started(self, rank: int, pid: int) -> None:
        self.send(wire.encode("started", rank=rank, pid=pid))

    def output(self, rank: int, stream: str, data: bytes) -> None:
        self.send(wire.encode("output", rank=rank, stream=stream, data=wire.text_of(data)))

    def ended(self, end: RankExit) -> None:
        self.send(wire.encode("ended", **asdict(end)))

    def lost(self, host: str, ranks: Iterable[int], reason: str) -> None:
        raise AssertionError("an agent has no hosts of its own")


class Agent:
    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._reporter = Reporter(stdout)
        self._selector = selectors.DefaultSelector()
        self._lines = wire.Lines()
        self._host: LocalHost | None = None
        self._launcher_gone = False

    def run(self) -> int:
        """Returns when all ranks have ended or the launcher has gone."""
        self._reporter.send(wire.encode("ready"))
        self._selector.register(self._stdin, selectors.EVENT_READ, self._read)
        try:
            while not self._launcher_gone and (self._host is None or self._host.running):
                for key, _ in self._selector.select():  # ends at the latest with our input
                    if key.fd in self._selector.get_map():
                        key.data()
        except BrokenPipeError:
            self._launcher_gone = True
        finally:
            if self._host:
                self._host.close()
        return 1 if self._launcher_gone else 0

    def stop(self, *_: object) -> None:
        self._launcher_gone = True
        raise SystemExit(1)  # out of select(); run() kills the ranks on the way

    def _read(self) -> None:
        data = os.read(self._stdin, _READ_BYTES)
        if not data:
            self._launcher_gone = True
            return
        for line in self._lines.feed(data):
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        message = wire.decode(line)
        if message is None:
            self._reporter.send(wire.encode("error", text="the agent got a line that is not JSON"))
            self._launcher_gone = True
        elif message.pop("type") == "signal":
            if self._host:
                self._host.signal(int(message["number"]))
        elif self._host is None:
            self._start(HostJob(**message))

    def _start(self, job: HostJob) -> None:
        if not os.path.isdir(job.cwd):
            text = f"no directory {job.cwd} here; start the job from one that all hosts have"
            self._reporter.send(wire.encode("error", text=text))
            self._launcher_gone = True
            return
        self._host = LocalHost(job, self._reporter, self._selector, stdin_is_free=False)
        self._host.start()


def main() -> int:
    agent = Agent(sys.stdin.fileno(), sys.stdout.fileno())
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, agent.stop)
    return agent.run()


if __name__ == "__main__":
    sys.exit(main())
