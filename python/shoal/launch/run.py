"""``shoal run -n 4 [options] [--] command ...``: the command line.

Each rank gets SHOAL_RANK, SHOAL_WORLD_SIZE, SHOAL_LOCAL_RANK, SHOAL_LOCAL_SIZE, SHOAL_STORE
(host:port of the rendezvous store in this process), SHOAL_JOB and SHOAL_SECRET_FD: the number of an
inherited descriptor, a memory file of its own, with the job's secret at offset 0. The secret stands
on no command line and in no environment; other hosts get it through their agent's standard input.

And what torchrun sets, for programs that rendezvous by themselves: RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR (the first host by its name in --hosts, else --address) and
MASTER_PORT, a free one. --env MASTER_ADDR=... gives another.
"""

from __future__ import annotations

import argparse
import os
import secrets
import selectors
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal import _nccl
from shoal.launch.host import LocalHost
from shoal.launch.job import (
    LOCAL,
    Host,
    HostJob,
    UsageError,
    cores_of,
    forwarded_environment,
    parse_hosts,
    place,
    program_name,
)
from shoal.launch.network import store_address
from shoal.launch.output import Console, bare, console, numbered
from shoal.launch.remote import DEFAULT_AGENT, RemoteHost, agent_command
from shoal.launch.report import JobReport, RankReport
from shoal.launch.supervise import Limits, Supervisor

USAGE_CODE = 2


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ranks run where: of every command that starts a job."""
    add = parser.add_argument
    add("-n", "--ranks", type=int, metavar="N", help="how many ranks (default: all --hosts has)")
    add("--hosts", metavar="A:2,B:2", help="where, and how many ranks each (default: here)")
    add("--agent", default=DEFAULT_AGENT, metavar="COMMAND",
        help="how to run a command on {host} (default: %(default)r)")  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", help="address the rendezvous store binds to")
    where.add_argument("--interface", help="or the network interface")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="set for every rank")
    add("-x", action="append", default=[], metavar="NAME", help="pass on to other hosts")
    add("--grace", type=float, default=5.0, metavar="S",
        help="seconds between SIGTERM and SIGKILL (default: %(default)g)")  # fmt: skip
    add("--no-bind", action="store_true", help="do not bind ranks to cores")
    add(
        "--job",
        metavar="NAME",
        help="name in logs and `shoal ps` (default: the program's, and a number)",
    )
    add("-v", "--verbose", action="store_true", help="say what is started where")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_launch_arguments(parser)
    add = parser.add_argument
    add("--nccl", action="store_true", help="what the program asks of NCCL is done by shoal")
    add("--timeout", type=float, metavar="S", help="end the job after S seconds (code 124)")
    tags = parser.add_mutually_exclusive_group()
    tags.add_argument(
        "--tag-output", action="store_true", help="prefix lines even of a single rank"
    )
    tags.add_argument("--no-prefix", action="store_true", help="do not prefix lines by rank")
    add("--json-report", type=Path, metavar="FILE", help="write there how each rank ended")
    add("command", nargs=argparse.REMAINDER, help="the program and its arguments")


def main(arguments: argparse.Namespace) -> int:
    try:
        report = run(arguments, extra=_preloads() if arguments.nccl else {})
    except UsageError as error:
        print(f"shoal run: {error}", file=sys.stderr)
        return USAGE_CODE
    if arguments.json_report:
        report.write(arguments.json_report)
    return report.code


def run(
    arguments: argparse.Namespace,
    screen: Console | None = None,
    extra: Mapping[str, str] | None = None,
) -> JobReport:
    """Runs a job to its end. `screen`: takes the ranks' output instead of the terminal.
    `extra`: variables of every rank, where --env does not say otherwise."""
    command = _command(arguments.command)
    placed = _placed(arguments)
    if arguments.json_report and not arguments.json_report.absolute().parent.is_dir():
        raise UsageError(f"--json-report {arguments.json_report}: there is no such directory")
    ranks = sum(len(taken) for _, taken in placed)
    remote = any(name != LOCAL for name, _ in placed)
    address = store_address(arguments.address, arguments.interface, remote)
    job = arguments.job or f"{program_name(command)[:24]}-{secrets.token_hex(4)}"
    secret = secrets.token_hex(32)
    store = make_store(address, ranks, job, secret)
    first = placed[0][0]
    master = _endpoint(address if first == LOCAL else first, _free_port(address))

    def part(taken: list[int], environment: dict[str, str]) -> HostJob:
        return HostJob(
            job=job,
            command=command,
            cwd=os.getcwd(),
            environment={**environment, **(extra or {}), **_settings(arguments.env)},
            ranks=taken,
            world_size=ranks,
            store=_endpoint(address, store.port),
            master=master,
            secret=secret,
            bind=not arguments.no_bind,
            relay=remote or ranks > 1 or arguments.tag_output,
        )

    report = JobReport(
        job, command, [RankReport(rank, _shown(name)) for name, r in placed for rank in r]
    )
    screen = screen or _console(arguments, ranks)
    limits = Limits(arguments.timeout, arguments.grace)
    with selectors.DefaultSelector() as selector:
        supervisor = Supervisor(report, store, screen, limits, selector, arguments.verbose)
        hosts: list[Host] = []
        for name, taken in placed:
            if name == LOCAL:
                hosts.append(LocalHost(part(taken, {}), supervisor, selector))
                continue
            forwarded = forwarded_environment(os.environ, arguments.x)
            agent = agent_command(arguments.agent, name, sys.executable)
            hosts.append(RemoteHost(name, agent, part(taken, forwarded), supervisor, selector))
        if arguments.verbose:
            _introduce(screen, job, _endpoint(address, store.port), placed, arguments.no_bind)
        try:
            return supervisor.run(hosts)
        finally:
            screen.close()


def make_store(address: str, ranks: int, job: str, secret: str):  # type: ignore[no-untyped-def]
    """The rendezvous store, serving in a thread of this process."""
    from shoal import _core

    try:
        return _core.Store(address, 0, ranks, job, secret, launcher_reports_exits=True)
    except RuntimeError as error:
        raise UsageError(f"{error} (nothing was started)") from error


def _preloads() -> dict[str, str]:
    if not _nccl.drop_in().exists():
        raise UsageError(f"--nccl: this shoal has no {_nccl.drop_in()}; it was built without it")
    return _nccl.preloads()


def _command(words: Sequence[str]) -> list[str]:
    command = list(words[1:] if words[:1] == ["--"] else words)
    if not command:
        raise UsageError("no program given; for example: shoal run -n 4 python train.py")
    return command


def _placed(arguments: argparse.Namespace) -> list[tuple[str, list[int]]]:
    if arguments.ranks is not None and arguments.ranks < 1:
        raise UsageError(f"-n {arguments.ranks}: at least one rank is needed")
    if arguments.hosts:
        return place(parse_hosts(arguments.hosts), arguments.ranks)
    if arguments.ranks is None:
        raise UsageError("give either -n N or --hosts A:2,B:2")
    return [(LOCAL, list(range(arguments.ranks)))]


def _settings(words: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--env {word}: expected NAME=VALUE; -x NAME passes a variable on")
        settings[name] = value
    return settings


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _free_port(address: str) -> int:
    """One that nobody listens on now, for rank 0 to serve a store of its own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _shown(host: str) -> str:
    return socket.gethostname() if host == LOCAL else host


def _console(arguments: argparse.Namespace, ranks: int) -> Console:
    prefixed = arguments.tag_output or (ranks > 1 and not arguments.no_prefix)
    return console(numbered if prefixed else bare)


def _introduce(
    screen: Console,
    job: str,
    store: str,
    placed: list[tuple[str, list[int]]],
    no_bind: bool,
) -> None:
    screen.say(f"shoal run: job {job}, store at {store}")
    for name, taken in placed:
        ranks = f"ranks {taken[0]}..{taken[-1]} on {_shown(name)}"
        screen.say(f"shoal run: {ranks}: {_binding(name, len(taken), no_bind)}")


def _binding(name: str, ranks: int, no_bind: bool) -> str:
    if no_bind:
        return "not bound (--no-bind)"
    if name != LOCAL:
        return "bound there if its cores suffice"
    cores = os.sched_getaffinity(0)
    if cores_of(0, ranks, cores) is None:
        return f"not bound, {ranks} ranks outnumber {len(cores)} cores"
    shares = (sorted(cores_of(rank, ranks, cores) or ()) for rank in range(ranks))
    return "cores " + " | ".join(",".join(map(str, share)) for share in shares)
