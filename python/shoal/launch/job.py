"""What a job is: which ranks run where, with which command and environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

LOCAL = "localhost"

# Variables that say who a rank is: never taken over from the launcher's own environment.
_IDENTITY = re.compile(
    r"SHOAL_(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_SIZE|STORE|STORE_PORT|JOB|SECRET|SECRET_FD|SECRET_FILE)"
)
_INTERPRETER = re.compile(r"(python|pypy)[\d.]*t?|(ba|da|z)?sh|perl|ruby|julia|Rscript")


class UsageError(Exception):
    """The user asked for something that cannot be done; the text says what to do instead."""


@dataclass(frozen=True)
class HostJob:
    """One host's part of a job. Travels to an agent as JSON, by its standard input only."""

    job: str
    command: list[str]
    cwd: str
    environment: dict[str, str]  # beside the host's own environment
    ranks: list[int]  # local rank = index
    world_size: int
    store: str  # host:port
    master: str  # host:port at rank 0's host, for programs that rendezvous by themselves (torch)
    secret: str = field(repr=False)
    bind: bool = True
    relay: bool = True  # False: the rank writes to our own standard output and error

    def environment_of(self, local_rank: int) -> dict[str, str]:
        master_host, _, master_port = self.master.rpartition(":")
        return {
            "RANK": str(self.ranks[local_rank]),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(len(self.ranks)),
            "MASTER_ADDR": master_host.strip("[]"),
            "MASTER_PORT": master_port,
            **self.environment,
            "SHOAL_RANK": str(self.ranks[local_rank]),
            "SHOAL_WORLD_SIZE": str(self.world_size),
            "SHOAL_LOCAL_RANK": str(local_rank),
            "SHOAL_LOCAL_SIZE": str(len(self.ranks)),
            "SHOAL_STORE": self.store,
            "SHOAL_JOB": self.job,
        }


@dataclass(frozen=True)
class RankExit:
    """How one rank ended. ``status`` as subprocess has it: the exit code, or minus the signal."""

    rank: int
    pid: int | None
    status: int
    note: str = ""  # what the status alone does not say, e.g. "out of memory"

    @property
    def signal(self) -> int | None:
        return -self.status if self.status < 0 else None


class Events(Protocol):
    """What a host tells its supervisor (or an agent its launcher)."""

    def started(self, rank: int, pid: int) -> None: ...
    def output(self, rank: int, stream: str, data: bytes) -> None: ...
    def ended(self, end: RankExit) -> None: ...
    def lost(self, host: str, ranks: Iterable[int], reason: str) -> None: ...


class Host(Protocol):
    """Where ranks run. Calls return at once; what happens comes back as Events."""

    name: str

    def start(self) -> None: ...
    def signal(self, number: int) -> None: ...
    def close(self) -> None: ...


def parse_hosts(text: str) -> list[tuple[str, int]]:
    """``"a:2,b:2"`` -> [("a", 2), ("b", 2)]; a host without a number has one rank."""
    hosts: list[tuple[str, int]] = []
    for part in text.split(","):
        name, colon, slots = part.strip().rpartition(":")
        if not colon:
            name, slots = slots, "1"
        if not name or name.startswith("-") or not slots.isdigit() or int(slots) < 1:
            raise UsageError(
                f"--hosts: {part!r} is not HOST or HOST:RANKS, for example --hosts a:2,b:2"
            )
        hosts.append((name, int(slots)))
    names = [name for name, _ in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--hosts: {', '.join(twice)} is named twice; add its ranks up")
    return hosts


def place(hosts: list[tuple[str, int]], ranks: int | None) -> list[tuple[str, list[int]]]:
    """Fills the hosts in order. Ranks of one host are consecutive."""
    slots = sum(count for _, count in hosts)
    wanted = slots if ranks is None else ranks
    if wanted > slots:
        raise UsageError(f"-n {wanted}: --hosts has room for {slots} ranks; give a host more")
    placed: list[tuple[str, list[int]]] = []
    first = 0
    for name, count in hosts:
        taken = list(range(first, min(first + count, wanted)))
        first += len(taken)
        if taken:
            placed.append((name, taken))
    return placed


def program_name(command: list[str]) -> str:
    """The script of ``python -u train.py``, the module of ``python -m train``, or the program."""
    name = Path(command[0]).name
    if not _INTERPRETER.fullmatch(name):
        return name
    for i, word in enumerate(command[1:], 1):
        if word == "-c":
            break
        if word == "-m" and i + 1 < len(command):
            return command[i + 1]
        if not word.startswith("-") and os.path.isfile(word):
            return Path(word).name
    return name


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The launcher's environment for a local rank: all but the identity of an outer job."""
    return {k: v for k, v in environment.items() if not _IDENTITY.fullmatch(k)}


def forwarded_environment(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What travels to another host: PYTHONPATH, SHOAL_* and the variables named by -x."""
    wanted = {"PYTHONPATH", *names}
    chosen = {k: v for k, v in environment.items() if k in wanted or k.startswith("SHOAL_")}
    return own_environment(chosen)


def cores_of(local_rank: int, local_size: int, cores: Iterable[int]) -> set[int] | None:
    """The cores of one rank: equal shares of neighbours; None where ranks outnumber cores."""
    ordered = sorted(cores)
    if local_size > len(ordered):
        return None
    begin = local_rank * len(ordered) // local_size
    end = (local_rank + 1) * len(ordered) // local_size
    return set(ordered[begin:end])


def threads_of(local_size: int) -> int:
    """How many threads a rank's numerical libraries may start without crowding out the others."""
    return max(1, len(os.sched_getaffinity(0)) // local_size)
