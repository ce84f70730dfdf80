"""`shoal top`: what the ranks of this node's jobs do, how fast, and who is late; live.

Made of looks at the progress pages, 50 a second: numbers are those since the last refresh.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.pages import Operation, Page, Transfer
from shoal.trace.late import key_of
from shoal.trace.missing import NotInstalled, need
from shoal.trace.selection import Selection
from shoal.trace.spans import Collective, Tracker

LOOK_S = 0.02
MAX_ROWS = 1 << 20
PIPE_COLUMNS = 180  # of a table that goes into a file or a pipe
MARKED_MS = 10  # lateness that is shown in colour


@dataclass(frozen=True)
class Row:
    """A rank between two readings; what --json prints."""

    job: str
    rank: int
    ranks: int
    host: str
    pid: int
    process: str  # Page.state
    communicator: int
    operation: str  # what it waits for, or waited for last; "": it did not have to wait
    sequence: int  # of the collective; the tag of a send or receive
    bytes: int  # of its whole buffer
    state: str  # "entering", "running", "done", "failed"; "waits" of a send or receive
    step: int
    awaited_rank: int  # -1: none
    age_ms: float  # for how long it has waited
    operations_per_s: float  # collectives ended, those that had not to wait included
    bytes_per_s: float  # of those: the larger of the rank's two buffers
    staged_bytes_per_s: float
    late_ms: float | None  # at most so much later than the first; None: nothing was waited for
    is_late: bool  # others wait for it now


RankName = tuple[str, int]  # job, rank


def lateness_of(collectives: Iterable[Collective]) -> dict[RankName, float]:
    """How many ms after the first of its communicator each rank posted one of them, at most."""
    worst: dict[RankName, float] = {}
    for one in collectives:
        for part in one.parts:
            name = (one.name.job, part.rank)
            worst[name] = max((part.begin_ns - one.begin_ns) / 1e6, worst.get(name, 0.0))
    return worst


def late_now(pages: Sequence[Page]) -> dict[RankName, float]:
    """Who has not posted what others wait for, and for how many ms they have waited."""
    first: dict[tuple[str, int, int], tuple[int, int]] = {}  # communicator -> sequence, begin_ns
    for page in pages:
        for operation in page.operations:
            if operation.in_flight and operation.begin_ns > 0:
                name = (page.job, *key_of(page, operation))
                this = (operation.sequence, operation.begin_ns)
                first[name] = min(this, first.get(name, this))
    late = {}
    for page in pages:
        for row in page.communicators:
            sequence, begin_ns = first.get((page.job, *row.key), (0, 0))
            if row.posted < sequence:
                late[(page.job, page.rank)] = (page.read_ns - begin_ns) / 1e6
    return late


def _shown(page: Page) -> tuple[Operation | Transfer | None, int]:
    """What it waits for, else waited for last, and the number that its communicator is at."""
    latest = page.latest
    if page.transfers and (latest is None or not latest.in_flight):
        return min(page.transfers, key=lambda t: t.begin_ns), 0
    if latest is None:
        return None, max((row.posted for row in page.communicators), default=0)
    row = page.progress(key_of(page, latest))
    return latest, latest.sequence if latest.in_flight or row is None else row.posted


def _describe(page: Page) -> dict[str, Any]:
    one, sequence = _shown(page)
    if isinstance(one, Transfer):
        return {
            "communicator": one.communicator, "operation": one.kind, "sequence": one.tag,
            "bytes": one.bytes, "state": "waits", "step": 0, "awaited_rank": one.peer,
            "age_ms": (page.read_ns - one.begin_ns) / 1e6,
        }  # fmt: skip
    if one is None or one.sequence != sequence:  # the last one did not have to wait
        return {
            "communicator": 0 if one is None else one.communicator, "operation": "",
            "sequence": sequence, "bytes": 0, "state": "done" if sequence else "", "step": 0,
            "awaited_rank": -1, "age_ms": 0.0,
        }  # fmt: skip
    row = page.progress(key_of(page, one))
    waits = one.in_flight and one.begin_ns > 0
    return {
        "communicator": one.communicator, "operation": one.collective, "sequence": sequence,
        "bytes": one.block_bytes * (row.ranks if one.in_blocks and row else 1), "state": one.state,
        "step": one.step, "awaited_rank": one.awaited_peer,
        "age_ms": (page.read_ns - one.begin_ns) / 1e6 if waits else 0.0,
    }  # fmt: skip


def make_rows(
    before: Sequence[Page],
    after: Sequence[Page],
    worst: dict[RankName, float],
    state_of: Callable[[Page], str] = lambda page: page.state,
) -> list[Row]:
    """Of the ranks that are there after; rates are 0 for those that were not before."""
    earlier = {(page.job, page.rank, page.pid): page for page in before}
    now = late_now(after)
    rows = []
    for page in after:
        last = earlier.get((page.job, page.rank, page.pid), page)
        seconds = (page.read_ns - last.read_ns) / 1e9 or 1.0
        name = (page.job, page.rank)
        late = [one[name] for one in (worst, now) if name in one]
        rows.append(Row(
            job=page.job, rank=page.rank, ranks=page.ranks, host=page.host, pid=page.pid,
            process=state_of(page), **_describe(page),
            operations_per_s=(page.completed - last.completed) / seconds,
            bytes_per_s=(page.bytes - last.bytes) / seconds,
            staged_bytes_per_s=(page.staged_bytes - last.staged_bytes) / seconds,
            late_ms=max(late, default=None), is_late=name in now,
        ))  # fmt: skip
    return rows


def _scaled(value: float, units: Sequence[str], base: float) -> str:
    """Three digits: 999, 1.23 k, 12.3 M."""
    thousands = 0
    while abs(value) >= base and thousands < len(units) - 1:
        value, thousands = value / base, thousands + 1
    digits = 0 if thousands == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {units[thousands]}".rstrip()


def _rate(value: float, unit: str = "") -> str:
    return "-" if value == 0 else _scaled(value, [p + unit for p in ("", "k", "M", "G", "T")], 1e3)


def _size(value: int) -> str:
    return _scaled(value, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)


def _late(row: Row) -> str:
    if row.late_ms is None:
        return "-"
    return f"{row.late_ms:.1f} ms" + (" now" if row.is_late else "")


def cells(row: Row) -> tuple[str, ...]:
    """As the table shows it; COLUMNS names them."""
    waits = row.operation in ("send", "recv")
    number = f"tag {row.sequence}" if waits else f"#{row.sequence}"
    size = f" ({_size(row.bytes)})" if row.bytes else ""
    operation = f"{row.operation} {number}{size}".lstrip() if row.state else "-"
    return (
        str(row.rank), row.host, str(row.pid), row.process, str(row.communicator), operation,
        row.state or "-", str(row.step), "-" if row.awaited_rank < 0 else str(row.awaited_rank),
        f"{row.age_ms:.1f} ms" if row.age_ms else "-", _rate(row.operations_per_s),
        _rate(row.bytes_per_s, "B/s"), _rate(row.staged_bytes_per_s, "B/s"), _late(row),
    )  # fmt: skip


COLUMNS = (
    "rank", "host", "pid", "process", "comm", "operation", "state", "step", "awaits", "waits",
    "op/s", "payload", "staged", "late",
)  # fmt: skip
# In a narrow terminal, in this order.
_LEFT_OUT = ("host", "step", "staged", "pid", "comm", "waits", "state", "process")
_GAP = 2  # between columns
_RIGHT = frozenset({"rank", "pid", "step", "awaits", "waits", "op/s", "payload", "staged", "late"})


def _style(row: Row) -> str:
    if row.process not in ("running", "silent"):
        return "red"
    return "yellow" if row.is_late and (row.late_ms or 0) >= MARKED_MS else ""


def most_telling(rows: Sequence[Row], limit: int) -> list[Row]:
    """So many of them, in their order: first those that do not run, then the latest."""
    worst = sorted(rows, key=lambda row: (row.process == "running", -(row.late_ms or 0)))[:limit]
    return [row for row in rows if row in worst]


def fitting(lines: Sequence[tuple[str, ...]], width: int) -> list[int]:
    """Which columns there is room for: whole ones, rather than a bit of each."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *lines, strict=True)]
    chosen = list(range(len(COLUMNS)))
    for name in _LEFT_OUT:
        if sum(widths[i] + _GAP for i in chosen) - _GAP > width:
            chosen.remove(COLUMNS.index(name))
    return chosen


def render(rows: Sequence[Row], width: int, height: int = MAX_ROWS) -> Any:
    """A table for each job, for rich to print, in so many columns and lines of characters."""
    table_class, text, group = (
        need("rich.table").Table, need("rich.text").Text, need("rich.console").Group
    )  # fmt: skip
    if not rows:
        return text("no shoal jobs on this node (of this user)")
    tables = []
    jobs = list(dict.fromkeys(row.job for row in rows))
    limit = max(1, height // len(jobs) - 3)  # beside title, heads and the line about the others
    for job in jobs:
        mine = [row for row in rows if row.job == job]
        table = table_class(
            title=text(f"job {job}: {len(mine)} of {mine[0].ranks} ranks are here"),
            title_justify="left", box=None, pad_edge=False, padding=(0, 1),
        )  # fmt: skip
        shown = most_telling(mine, limit)
        lines = [cells(row) for row in shown]
        chosen = fitting(lines, width)
        for i in chosen:
            justify = "right" if COLUMNS[i] in _RIGHT else "left"
            table.add_column(COLUMNS[i], justify=justify, no_wrap=True)
        for row, line in zip(shown, lines, strict=True):
            table.add_row(*(text(line[i]) for i in chosen), style=_style(row))
        tables.append(table)
        if len(mine) > limit:
            tables.append(text(f"and {len(mine) - limit} ranks that are less late"))
    return group(*tables)


class Looks:
    """Looks at the pages between two refreshes. One thread."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._tracker = Tracker()
        self._before = self._read()

    def _read(self) -> list[Page]:
        return [page for pages in self._selection.read().values() for page in pages]

    def rows(self, seconds: float, ended: Callable[[], bool]) -> list[Row]:
        """After so long, or as soon as `ended`."""
        until = time.monotonic() + seconds
        collectives = self._tracker.observe(self._before)
        pages = self._before
        while time.monotonic() < until and not ended():
            time.sleep(LOOK_S)
            pages = self._read()
            collectives += self._tracker.observe(pages)
        rows = make_rows(self._before, pages, lateness_of(collectives))
        self._before = pages
        return rows


class Keys:
    """The keyboard, if there is one: q ends."""

    def __init__(self) -> None:
        self._has_ended = False
        self._settings = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None

    def __enter__(self) -> Keys:
        if self._settings is not None:
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._settings is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)

    def ended(self) -> bool:
        while self._settings is not None and select.select([sys.stdin], [], [], 0)[0]:
            key = os.read(sys.stdin.fileno(), 1)
            self._has_ended |= key in (b"q", b"Q", b"")
            if self._has_ended:
                break
        return self._has_ended


@contextlib.contextmanager
def _output(options: argparse.Namespace) -> Iterator[Callable[[list[Row]], None]]:
    """Shows rows: as lines, as a table after the other, or in a terminal in the same place."""
    if options.json:
        yield _print_lines
        return
    console = need("rich.console").Console()
    if not console.is_terminal:
        console = need("rich.console").Console(width=PIPE_COLUMNS)
    if options.once or not console.is_terminal:
        yield lambda rows: console.print(render(rows, console.width))
        return
    with need("rich.live").Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda rows: live.update(render(rows, console.width, console.height), refresh=True)


def _print_lines(rows: list[Row]) -> None:
    for row in rows:
        print(json.dumps({"time_ns": time.time_ns(), **dataclasses.asdict(row)}))
    sys.stdout.flush()


def add_arguments(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument("--job", help="the id of a job (shoal ps shows it); default: all jobs here")
    which.add_argument("--pid", type=int, help="the job that this process is a rank of")
    command.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="S", help="between refreshes (default: 1)"
    )
    command.add_argument("--once", action="store_true", help="end after the first interval")
    command.add_argument("--json", action="store_true", help="one JSON object a rank and refresh")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 0.1 to 3600 seconds")
    return value


def main(options: argparse.Namespace) -> int:
    looks = Looks(Selection(options.job, options.pid))
    try:
        with _output(options) as show, Keys() as keys:
            while not keys.ended():
                show(looks.rows(options.interval, keys.ended))
                if options.once:
                    break
    except NotInstalled as error:
        print(f"shoal top: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0
