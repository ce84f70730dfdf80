"""The libraries that take part, and how their ranks are started.

Each runs one driver a rank; every driver gets the path of the session's socket and the library's
name, and says by that socket who it is.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal._ucx import ucx_directory

from .cells import Cell
from .network import Hosts
from .workshop import DRIVERS, Workshop

_STREAM_BYTES = 1 << 20  # below, stores past the caches are slower everywhere
_PACKAGE = Path(sys.modules["shoal"].__file__ or "").parent


@dataclass(frozen=True)
class Placement:
    """How many ranks, on which cores: rank r on core r mod their number; on one host or two."""

    ranks: int
    cores: tuple[int, ...]
    hosts: Hosts | None = None

    @property
    def is_crowded(self) -> bool:
        return self.ranks > len(self.cores)

    def core(self, rank: int) -> int:
        return self.cores[rank % len(self.cores)]

    def __str__(self) -> str:
        where = "two hosts over TCP" if self.hosts else "one host"
        return f"{self.ranks} ranks, {where}" + (", more than cores" if self.is_crowded else "")


@dataclass(frozen=True)
class Process:
    """One program to start: a launcher, or a rank."""

    argv: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # beside our own


@dataclass(frozen=True)
class Line:
    """What a session gives to the ranks it starts."""

    folder: Path  # theirs, for as long as they run
    memory: Path  # shared memory for a library that has none of its own

    @property
    def socket(self) -> Path:
        return self.folder / "line"


class Library(ABC):
    name: str
    is_peer = False

    @abstractmethod
    def make(self, workshop: Workshop) -> None:
        """Installs and compiles what is missing. Raises Unavailable."""

    @abstractmethod
    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        """The kinds of memory it is measured with in this cell."""

    @abstractmethod
    def processes(self, placement: Placement, line: Line) -> list[Process]: ...

    def settings(self, placement: Placement) -> str:
        """What differs from the library's defaults, for the report."""
        del placement
        return ""


class Direct(Library):
    """Bare loops over shared memory: what the machine can do at all (drivers/direct.cc)."""

    name = "direct"

    def make(self, workshop: Workshop) -> None:
        self._driver = workshop.compile(self.name, "direct.cc")

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        kind = "private" if cell.is_floor else "shared"
        if placement.hosts and not cell.is_floor:
            return ()  # two hosts share no memory
        streams = cell.bytes >= _STREAM_BYTES and not cell.is_network
        return (kind, f"{kind}-stream") if streams else (kind,)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        hosts = placement.hosts
        address = [hosts.addresses[0]] if hosts else []
        return [
            Process(
                [*(hosts.inside(rank, placement.ranks) if hosts else []), str(self._driver),
                 str(line.socket), self.name, str(rank), str(placement.ranks),
                 str(line.memory), *address]
            )
            for rank in range(placement.ranks)
        ]  # fmt: skip


class Shoal(Library):
    """The installed libshoal through its C++ API."""

    name = "shoal"

    def make(self, workshop: Workshop) -> None:
        self._driver = compile_with_shoal(workshop, self.name, "shoal.cc")

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        del placement
        return ("ordinary", "pool") if cell.bytes else ("ordinary",)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        driver = [str(self._driver), str(line.socket), self.name, ucx_directory()]
        return [Process([*shoal_run(placement), *driver])]


class ShoalPython(Library):
    """The same through its Python API."""

    name = "shoal-python"

    def make(self, workshop: Workshop) -> None:
        self._harness = workshop.harness()

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        del placement
        return ("ordinary", "pool") if cell.bytes else ("ordinary",)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        driver = [sys.executable, str(DRIVERS / "shoal_python.py"), str(self._harness)]
        return [Process([*shoal_run(placement), *driver, str(line.socket), self.name])]


def compile_with_shoal(workshop: Workshop, name: str, source: str) -> Path:
    """A driver that uses the installed libshoal."""
    library = next(_PACKAGE.glob("libshoal.so.*"))
    flags = [f"-I{_PACKAGE / 'include'}", str(library), f"-Wl,-rpath,{_PACKAGE}"]
    headers = sorted((_PACKAGE / "include" / "shoal").rglob("*.h"))
    return workshop.compile(name, source, flags, headers)


def shoal_run(placement: Placement) -> list[str]:
    command = [sys.executable, "-m", "shoal.cli", "run", "--no-bind"]
    if placement.hosts is None:
        return [*command, "-n", str(placement.ranks)]
    hosts = placement.hosts
    where = ",".join(f"{name}:{placement.ranks // 2}" for name in hosts.names)
    return [
        *hosts.inside(0, placement.ranks), *command, "--hosts", where,
        "--agent", "ip netns exec {host}", "--address", hosts.addresses[0],
    ]  # fmt: skip
