"""The command line, understood: what is measured, with whom, and where results go."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from .cells import FULL_SIZES, OPS, QUICK_SIZES, parse_size
from .libraries import Direct, Library, Shoal, ShoalPython
from .measure import FULL, QUICK, Effort
from .peers import PEERS
from .workshop import default_directory

MAX_RANKS = 64
_FULL_MINUTES, _QUICK_MINUTES = 40.0, 2.5  # some more go into what is under way then
_QUICK_LIBRARIES = ["shoal", "openmpi", "openmpi-ucx", "mpich", "intelmpi"]  # the fastest ones
_FULL_RANKS, _FULL_NETWORK, _QUICK_RANKS = "2,4,8", "2,4", "2"


class UsageError(Exception):
    """The command line asks for what cannot be done; the text says what can."""


@dataclass(frozen=True)
class Plan:
    ops: list[str]
    sizes: list[int]
    ranks: list[int]  # on one host
    network: list[int]  # over TCP
    libraries: list[Library]
    effort: Effort
    minutes: float
    directory: Path
    json: Path | None
    rows: Path | None
    report: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="2 ranks, fewer sizes and rounds: under 3 minutes")
    add("--ops", metavar="A,B", help=f"of {', '.join(OPS)} (default: all)")
    add("--sizes", metavar="A,B", help=f"bytes (default: {FULL_SIZES})")
    add("--ranks", metavar="A,B", help=f"on one host (default: {_FULL_RANKS}; quick: 2)")
    add("--network", metavar="A,B",
        help="ranks over TCP, half of them in each of two network namespaces; needs root "
        f"(default: {_FULL_NETWORK}; quick, or with --ranks: none)")  # fmt: skip
    add("--libraries", metavar="A,B",
        help=f"beside direct (default: {','.join(_names())}; "
        f"quick: {','.join(_QUICK_LIBRARIES)})")  # fmt: skip
    add("--rounds", type=int, metavar="N",
        help=f"of each cell (default: {FULL.rounds}; quick: {QUICK.rounds})")  # fmt: skip
    add("--minutes", type=float, metavar="M",
        help="leave out what is not begun by then "
        f"(default: {_FULL_MINUTES:g}; quick: {_QUICK_MINUTES:g})")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--rows", type=Path, metavar="FILE", help="write the list of rows there, as JSON")
    add("--report", type=Path, metavar="FILE.md",
        help="write a report there, plots into a folder beside it (needs matplotlib)")  # fmt: skip
    add("--startup", action="store_true",
        help="instead: from launch to the first barrier, and memory of a rank "
        "(--ranks, --rounds, --json, --directory; 128 ranks too)")  # fmt: skip
    add("--torch", action="store_true",
        help="instead: torch.distributed over shoal beside torch.distributed over gloo, also "
        "training steps (--quick, --ops, --sizes, --ranks, --rounds, --minutes, --json, --rows, "
        "--report, --directory)")  # fmt: skip
    add("--directory", type=Path, metavar="DIR", default=default_directory(),
        help="where peers are installed and drivers compiled (default: %(default)s)")  # fmt: skip


def plan_of(options: argparse.Namespace) -> Plan:
    ranks, network = options.ranks, options.network
    if ranks is None and network is None:
        ranks, network = (_QUICK_RANKS, None) if options.quick else (_FULL_RANKS, _FULL_NETWORK)
    names = chosen("--libraries", options.libraries, _names())
    if options.quick and options.libraries is None:
        names = _QUICK_LIBRARIES
    return Plan(
        ops=chosen("--ops", options.ops, list(OPS)),
        sizes=sizes_of(options.sizes or (QUICK_SIZES if options.quick else FULL_SIZES)),
        ranks=ranks_of("--ranks", ranks),
        network=ranks_of("--network", network),
        libraries=[Direct(), *(one for one in _libraries() if one.name in names)],
        effort=with_rounds(QUICK if options.quick else FULL, options.rounds),
        minutes=options.minutes or (_QUICK_MINUTES if options.quick else _FULL_MINUTES),
        directory=options.directory,
        json=writable("--json", options.json),
        rows=writable("--rows", options.rows),
        report=_report(options.report),
    )


def _libraries() -> list[Library]:
    return [Shoal(), ShoalPython(), *(peer() for peer in PEERS)]


def _names() -> list[str]:
    return [library.name for library in _libraries()]


def chosen(option: str, text: str | None, known: list[str]) -> list[str]:
    if text is None:
        return known
    words = text.split(",")
    if unknown := [word for word in words if word not in known]:
        raise UsageError(f"{option}: no such {unknown[0]!r}; there are {', '.join(known)}")
    return words


def sizes_of(text: str) -> list[int]:
    try:
        return sorted({parse_size(word) for word in text.split(",")})
    except ValueError as error:
        raise UsageError(f"--sizes: {error}") from None


def ranks_of(option: str, text: str | None) -> list[int]:
    numbers = []
    for word in text.split(",") if text else []:
        if not word.isdigit() or not 2 <= int(word) <= MAX_RANKS:
            raise UsageError(f"{option}: {word!r} is not a number of ranks from 2 to {MAX_RANKS}")
        if option == "--network" and int(word) % 2:
            raise UsageError(
                f"{option} {word}: each host has half of the ranks; give an even number"
            )
        numbers.append(int(word))
    return numbers


def with_rounds(effort: Effort, rounds: int | None) -> Effort:
    if rounds is None:
        return effort
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: at least one is needed")
    return replace(effort, rounds=rounds)


def _report(path: Path | None) -> Path | None:
    if path and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--report draws with matplotlib: pip install 'shoal[bench]'")
    return writable("--report", path)


def writable(option: str, path: Path | None) -> Path | None:
    if path and not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no such directory")
    return path
