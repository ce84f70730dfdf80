"""One job from start to end: who failed first, and that everybody ends.

One thread and one selector. Every wait has an end: once a job is ending, its steps are fixed (a
moment for the ranks to name the culprit themselves, SIGTERM, the grace time, SIGKILL, giving up).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from shoal.launch.job import Host, RankExit
from shoal.launch.output import Console
from shoal.launch.remote import READY_SECONDS, RemoteHost
from shoal.launch.report import JobReport, RankReport, long_cause, short_cause, signal_name

TIMED_OUT = 124  # as timeout(1) returns it
# The others raise PeerFailed as soon as the store tells them: let them say so before SIGTERM.
SETTLE_SECONDS = 1.0
GIVE_UP_SECONDS = 5.0  # after SIGKILL: a rank in an uninterruptible call, a host that is gone

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PASSED_ON = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
_HANDLED = [*_ENDING, *_PASSED_ON, signal.SIGTSTP]


class Store(Protocol):
    """The part of shoal._core.Store used here."""

    def report_exit(self, rank: int, cause: str) -> None: ...
    def missing(self) -> list[int]: ...


@dataclass
class Limits:
    timeout: float | None = None  # of the whole job
    grace: float = 5.0  # between SIGTERM and SIGKILL


class Supervisor:
    """Is the Events of its hosts."""

    def __init__(
        self,
        report: JobReport,
        store: Store,
        console: Console,
        limits: Limits,
        selector: selectors.BaseSelector,
        verbose: bool = False,
    ) -> None:
        self._report = report
        self._ranks = {rank.rank: rank for rank in report.ranks}
        self._store = store
        self._console = console
        self._limits = limits
        self._selector = selector
        self._verbose = verbose
        self._hosts: list[Host] = []
        self._batch: list[RankExit] = []  # ended since the last look at who was first
        self._steps: list[tuple[float, Callable[[], None]]] = []  # by time
        self._sent: set[int] = set()
        self._interrupts = 0

    def run(self, hosts: list[Host]) -> JobReport:
        self._hosts = hosts
        began = time.monotonic()
        if self._limits.timeout is not None:
            self._steps.append((began + self._limits.timeout, self._time_out))
        if any(isinstance(host, RemoteHost) for host in hosts):
            self._steps.append((began + READY_SECONDS, self._give_up_unready))
        try:
            with self._signals():
                for host in hosts:
                    host.start()
                self._loop()
        finally:
            for host in hosts:
                host.close()
            self._report.seconds = time.monotonic() - began
        return self._report

    # ---- events

    def started(self, rank: int, pid: int) -> None:
        self._ranks[rank].pid = pid
        self._ranks[rank].cause = "is running"
        if self._verbose:
            self._say(f"rank {rank} is pid {pid} on {self._ranks[rank].host}")

    def output(self, rank: int, stream: str, data: bytes) -> None:
        with self._reader_may_leave():
            self._console.write(rank, stream, data)

    def ended(self, end: RankExit) -> None:
        with self._reader_may_leave():
            self._console.finish(end.rank)
        self._ranks[end.rank].record(end, long_cause(end, self._sent))
        self._store.report_exit(end.rank, short_cause(end))
        self._batch.append(end)

    def lost(self, host: str, ranks: Iterable[int], reason: str) -> None:
        lost = list(ranks)
        for rank in lost:
            report = self._ranks[rank]
            report.ended = True
            report.cause = f"is lost with its host: {reason}"
            self._store.report_exit(rank, f"lost with its host {host}")
        self._report.lost_hosts.append(f"{host}: {reason}")
        self._say(f"lost host {host}: {reason}")
        self._fail(next(rank for rank in self._report.ranks if rank.rank in lost), said=True)

    # ---- the loop

    def _loop(self) -> None:
        while not all(rank.ended for rank in self._report.ranks):
            for key, _ in self._selector.select(self._until_next_step()):
                if key.fd in self._selector.get_map():  # an earlier one may have closed it
                    key.data()
            self._judge()
            self._take_due_steps()
        self._judge()
        if self._interrupts and not self._report.code:  # how the ranks took it is the answer
            self._report.code = next((rank.code for rank in self._report.ranks if rank.code), 0)

    def _until_next_step(self) -> float | None:
        if not self._steps:
            return None
        return max(0.0, min(when for when, _ in self._steps) - time.monotonic())

    def _take_due_steps(self) -> None:
        now = time.monotonic()
        due = [step for step in self._steps if step[0] <= now]
        self._steps = [step for step in self._steps if step[0] > now]
        for _, act in sorted(due, key=lambda step: step[0]):
            act()

    def _judge(self) -> None:
        """Of ranks seen to end at once, the one that was killed comes before those that noticed."""
        batch, self._batch = self._batch, []
        for end in sorted(batch, key=lambda end: end.status >= 0):
            if end.status != 0:
                self._fail(self._ranks[end.rank])

    # ---- endings

    def _ending(self) -> bool:
        return bool(self._report.first_failure or self._report.reason)

    def _fail(self, rank: RankReport, said: bool = False) -> None:
        if self._ending():
            return
        self._report.first_failure = rank
        self._report.code = rank.code
        left = sum(not other.ended for other in self._report.ranks)
        if not said:
            self._say(rank.describe() + (f"; ending the other {left}" if left else ""))
        self._end_by_steps(SETTLE_SECONDS)

    def _time_out(self) -> None:
        running = [rank.rank for rank in self._report.ranks if not rank.ended]
        if self._ending() or not running:
            return
        missing = self._store.missing()
        reason = f"--timeout {self._limits.timeout:g} s passed; still running: {_ranks(running)}"
        if 0 < len(missing) < len(self._ranks):
            reason += f"; never reached shoal.init(): {_ranks(missing)}"
        self._report.timed_out = True
        self._report.code = TIMED_OUT
        self._report.reason = reason
        self._say(reason)
        self._end_by_steps(0)

    def _end_by_steps(self, settle: float) -> None:
        term = time.monotonic() + settle
        self._steps = [(term, lambda: self._send(signal.SIGTERM))]
        self._kill_after(settle + self._limits.grace)

    def _kill_after(self, seconds: float) -> None:
        kill = time.monotonic() + seconds
        self._steps += [
            (kill, lambda: self._send(signal.SIGKILL)),
            (kill + GIVE_UP_SECONDS, self._give_up),
        ]

    def _send(self, number: int) -> None:
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._sent.add(number)
        if number == signal.SIGTERM:
            self._send(signal.SIGCONT)  # a stopped rank could not obey
        for host in self._hosts:
            host.signal(number)

    def _give_up(self) -> None:
        for rank in self._report.ranks:
            if not rank.ended:
                rank.ended = True
                rank.cause = "did not end after SIGKILL"
                self._say(rank.describe())

    def _give_up_unready(self) -> None:
        for host in self._hosts:
            if isinstance(host, RemoteHost) and not host.ready:
                host.give_up(f"host cannot be reached: no agent within {READY_SECONDS:g} s")

    # ---- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals arrive as bytes in the selector; the handlers themselves do nothing."""
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            before = {number: signal.signal(number, lambda *_: None) for number in _HANDLED}
            wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            self._selector.register(
                reader, selectors.EVENT_READ, lambda: self._read_signals(reader)
            )
            try:
                yield
            finally:
                self._selector.unregister(reader)
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _read_signals(self, reader: socket.socket) -> None:
        for number in reader.recv(256):
            if number in _ENDING:
                self._interrupt(number)
            elif number in _PASSED_ON:
                self._send(number)
            elif number == signal.SIGTSTP:
                self._stop()

    def _interrupt(self, number: int) -> None:
        self._interrupts += 1
        if self._interrupts > 1:  # the user means it
            self._steps = []
            self._kill_after(0)
            return
        self._send(number)
        if not self._ending():
            self._report.reason = f"interrupted by {signal_name(number)}"
            self._say(self._report.reason)
            self._steps = []
            self._kill_after(self._limits.grace)

    def _stop(self) -> None:
        """Ctrl-Z: the ranks first, then the launcher; `fg` goes on here."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)

    # ---- talking

    def _say(self, text: str) -> None:
        with self._reader_may_leave():
            self._console.say(f"shoal run: {text}")

    @contextlib.contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        """``shoal run ... | head``: end the job as SIGPIPE would."""
        try:
            yield
        except BrokenPipeError:
            self._console.mute()
            if not self._ending():
                self._report.code = 128 + signal.SIGPIPE
                self._report.reason = "nobody reads the output any more"
                self._end_by_steps(0)


def _ranks(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
