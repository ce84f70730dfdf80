"""`shoal run`: one job on one or several hosts.

The launcher serves the rendezvous store, starts the ranks, and prints what they print. Each rank
inherits a memory file (SHOAL_SECRET_FD) with the job's secret, made anew for every job. When a rank
fails the others get a moment to report what they saw, then SIGTERM, then SIGKILL.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import queue
import secrets
import shlex
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal import _core
from shoal.launch.host import Event, Exited, Host, Job, LocalHost, Lost, Output, Started
from shoal.launch.remote import RemoteHost

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SETTLE_S = 2.0  # after the first failure, for the others to say what they saw
TICK_S = 0.1


@dataclass
class RankReport:
    rank: int
    host: str = ""
    pid: int = 0
    exit_code: int | None = None
    signal: str | None = None
    cause: str = "has not ended"


@dataclass
class Report:
    """What --json-report writes."""

    ok: bool
    job: str
    command: list[str]
    ranks: list[RankReport]
    first_failure: RankReport | None = None
    lost_hosts: list[str] = field(default_factory=list)
    timed_out: bool = False
    seconds: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", type=int, metavar="RANKS", help="ranks on this host")
    add("--hosts", metavar="A:2,B:2", help="hosts and how many ranks each runs")
    add(
        "--agent",
        default="ssh -o BatchMode=yes {host}",
        help="how to run a command on a host (default: %(default)s)",
    )
    add("--address", help="address of this host that the other hosts reach; the store binds to it")
    add("--env", action="append", default=[], metavar="K=V", help="set for every rank")
    add("--timeout", type=float, metavar="S", help="end the job after so many seconds")
    add("--grace", type=float, default=5.0, metavar="S", help="between SIGTERM and SIGKILL")
    add("--no-bind", action="store_true", help="do not bind ranks to cores")
    add("--no-prefix", action="store_true", help="print lines without their rank")
    add("--json-report", metavar="FILE", help="write ranks, exit codes and cause when the job ends")
    add("--verbose", action="store_true", help="say what is started where")
    add("command", nargs=argparse.REMAINDER, help="program and arguments of each rank")


class UsageError(Exception):
    """What is wrong with the command line, and what to try."""


def parse_hosts(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Hosts with their number of ranks; one entry with the name "" means this host, without agent."""
    if (options.n is None) == (options.hosts is None):
        raise UsageError("give either -n RANKS or --hosts A:2,B:2")
    if options.hosts is None:
        if options.n < 1:
            raise UsageError(f"-n {options.n}: at least one rank is needed")
        return [("", options.n)]
    hosts = []
    for part in options.hosts.split(","):
        name, _, count = part.partition(":")
        if not name or not (count or "1").isdigit() or int(count or "1") < 1:
            raise UsageError(f"--hosts: `{part}` is not HOST or HOST:RANKS")
        hosts.append((name, int(count or "1")))
    return hosts


def parse_environment(items: list[str]) -> dict[str, str]:
    environment = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise UsageError(f"--env: `{item}` is not NAME=VALUE")
        environment[name] = value
    return environment


def own_address() -> str:
    """The address of the interface that the default route uses (no packet is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise UsageError(
                "this host has no default route: name the address that the other hosts reach, "
                "--address ADDR"
            ) from None
        return str(probe.getsockname()[0])


def describe_exit(event: Exited) -> str:
    if event.oom:
        return "killed by signal 9: out of memory (the kernel's OOM killer)"
    if event.returncode < 0:
        return f"killed by signal {-event.returncode}"
    return f"exited with code {event.returncode}"


class Launcher:
    """One job from start to verdict. One thread; hosts report into its queue."""

    def __init__(self, options: argparse.Namespace, command: list[str]) -> None:
        self._options = options
        self._hosts_wanted = parse_hosts(options)
        self._environment = parse_environment(options.env)
        self._size = sum(count for _, count in self._hosts_wanted)
        job = f"{pathlib.Path(command[0]).name}-{os.getpid()}-{secrets.token_hex(3)}"
        self._report = Report(False, job, command, [RankReport(r) for r in range(self._size)])
        self._secret = secrets.token_hex(32)
        self._events: queue.Queue[Event] = queue.Queue()
        self._hosts: list[Host] = []
        self._ending_since: float | None = None
        self._term_at = 0.0
        self._kill_at = 0.0
        self._width = len(str(self._size - 1))

    def run(self) -> int:
        start = time.monotonic()
        local = self._hosts_wanted[0][0] == ""
        address = self._options.address or ("127.0.0.1" if local else own_address())
        self._store = _core.Store(
            bind_host=address,
            port=0,
            ranks=self._size,
            job=self._report.job,
            secret=self._secret,
            launcher_reports_exits=True,
        )
        self._start_hosts(f"{address}:{self._store.port}")
        previous = self._catch_signals()
        try:
            self._supervise(start)
        finally:
            for host in self._hosts:
                host.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._report.seconds = round(time.monotonic() - start, 3)
        return self._conclude()

    def _start_hosts(self, store: str) -> None:
        first = 0
        forwarded = {
            name: value
            for name, value in os.environ.items()
            if name == "PYTHONPATH" or (name.startswith("SHOAL_") and "SECRET" not in name)
        }
        for name, count in self._hosts_wanted:
            job = Job(
                command=self._report.command,
                ranks=list(range(first, first + count)),
                world_size=self._size,
                store=store,
                job=self._report.job,
                bind=not self._options.no_bind,
                environment={**(forwarded if name else {}), **self._environment},
                directory=os.getcwd(),
            )
            host: Host
            if name:
                host = RemoteHost(job, self._secret, name, self._options.agent, self._events)
            else:
                host = LocalHost(job, self._secret, socket.gethostname(), self._events)
            if self._options.verbose:
                where = name or "this host"
                print(f"shoal run: ranks {first}..{first + count - 1} on {where}", file=sys.stderr)
            self._hosts.append(host)
            host.start()
            first += count

    def _signal_all(self, number: int) -> None:
        for host in self._hosts:
            host.signal(number)

    def _catch_signals(self) -> dict[int, Any]:
        previous: dict[int, Any] = {}
        for number in FORWARDED:
            previous[number] = signal.signal(number, lambda n, _frame: self._signal_all(n))
        previous[signal.SIGCONT] = signal.signal(
            signal.SIGCONT, lambda n, _frame: self._signal_all(n)
        )
        previous[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        return previous

    def _suspend(self, _number: int, _frame: Any) -> None:
        self._signal_all(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _supervise(self, start: float) -> None:
        running = set(range(self._size))
        while running:
            try:
                event = self._events.get(timeout=TICK_S)
            except queue.Empty:
                event = None
            if event is not None:
                self._take(event, running)
            now = time.monotonic()
            limit = self._options.timeout
            if limit is not None and now - start > limit and not self._report.timed_out:
                self._report.timed_out = True
                self._begin_ending(now - SETTLE_S)
            if self._ending_since is not None and self._press(now):
                return

    def _take(self, event: Event, running: set[int]) -> None:
        if isinstance(event, Output):
            self._print(event)
        elif isinstance(event, Started):
            report = self._report.ranks[event.rank]
            report.host, report.pid = event.host, event.pid
        elif isinstance(event, Exited):
            running.discard(event.rank)
            self._note_exit(event)
        elif isinstance(event, Lost):
            self._report.lost_hosts.append(f"{event.host}: {event.reason}")
            for rank in self._ranks_of(event.host):
                running.discard(rank)
                self._report.ranks[rank].cause = f"host {event.host} was lost"
                self._store.report_exit(rank, f"was lost with its host {event.host}")
            self._begin_ending(time.monotonic())

    def _ranks_of(self, host: str) -> list[int]:
        first = 0
        for name, count in self._hosts_wanted:
            if name in (host, ""):
                return list(range(first, first + count))
            first += count
        return []

    def _note_exit(self, event: Exited) -> None:
        report = self._report.ranks[event.rank]
        report.cause = describe_exit(event)
        if event.returncode < 0:
            report.signal = signal.Signals(-event.returncode).name
            report.exit_code = 128 - event.returncode
        else:
            report.exit_code = event.returncode
        self._store.report_exit(event.rank, report.cause)
        if event.returncode != 0 and self._report.first_failure is None:
            self._report.first_failure = report
            self._begin_ending(time.monotonic())

    def _begin_ending(self, now: float) -> None:
        if self._ending_since is not None:
            return
        self._ending_since = now
        self._term_at = now + SETTLE_S
        self._kill_at = self._term_at + max(self._options.grace, TICK_S)

    def _press(self, now: float) -> bool:
        """The rest has to end. True when even SIGKILL has had its time."""
        if now > self._kill_at + 5.0:
            return True
        if now > self._kill_at:
            self._signal_all(signal.SIGKILL)
        elif now > self._term_at:
            self._signal_all(signal.SIGTERM)
            self._term_at = self._kill_at
        return False

    def _print(self, event: Output) -> None:
        out = sys.stdout if event.stream == "stdout" else sys.stderr
        text = event.text
        if not self._options.no_prefix:
            prefix = f"[{event.rank:>{self._width}}] "
            # A progress bar begins with a carriage return and stays on its line.
            text = "\r" + prefix + text[1:] if text.startswith("\r") else prefix + text
        out.write(text)
        out.flush()

    def _conclude(self) -> int:
        report = self._report
        failure = report.first_failure
        report.ok = failure is None and not report.lost_hosts and not report.timed_out
        code = 0
        if report.timed_out:
            code = 124
            late = [str(r.rank) for r in report.ranks if r.exit_code != 0]
            print(
                f"shoal run: not finished after {self._options.timeout:g} s; "
                f"ended rank(s) {', '.join(late)}",
                file=sys.stderr,
            )
        elif report.lost_hosts:
            code = 1
            print(f"shoal run: lost host {'; '.join(report.lost_hosts)}", file=sys.stderr)
        elif failure is not None:
            code = failure.exit_code or 1
            print(
                f"shoal run: rank {failure.rank} ({failure.host}, pid {failure.pid}) "
                f"{failure.cause}; the other ranks were ended",
                file=sys.stderr,
            )
        if self._options.json_report:
            text = json.dumps(asdict(report), indent=2) + "\n"
            pathlib.Path(self._options.json_report).write_text(text)
        return code


def main(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        if not command:
            raise UsageError("no program given; e.g. shoal run -n 4 python train.py")
        return Launcher(options, command).run()
    except UsageError as error:
        print(f"shoal run: {error}", file=sys.stderr)
        return 2
    except _core.Error as error:
        print(f"shoal run: {error} ({shlex.join(command)} was not started)", file=sys.stderr)
        return 1
