"""Reads the progress pages of the jobs on this node, from outside: also of stopped ranks.

Layout: include/shoal/abi/progress_page.h. The offsets below are compared with the compiler's by a
test (`_core.abi_layout()`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

ARENA_NAME = "memfd:shoal-arena"
MAGIC = 0x616E6572616C6F68
VERSION = 4
PAGE_OFFSET, PAGE_BYTES = 4096, 4096
OPERATIONS, TRANSFERS, COMMUNICATORS = 16, 16, 64

HEADER = struct.Struct("<QIiq64s")  # magic, version, ranks, slice_bytes, job
# version, pid, rank, ranks, local_rank, drivers, host, heartbeat_ns, thread_id, caller_id,
# posted, completed (both without those at once), failed
PAGE = struct.Struct("<Iiiiii64sqiiQQQ")
# sequence, communicator, state, collective, algorithm, dtype, op, count, begin_ns, step, awaited
RECORD = struct.Struct("<QIIIIIIqqIi8x")
STAGED = struct.Struct("<QQ")  # operations, bytes
TRANSFER = struct.Struct("<IIiIqq")  # state, communicator, peer, tag, bytes, begin_ns
ROW = struct.Struct("<IiiiQQ")  # communicator, first, ranks, rank, posted, completed
STAGED_OFFSET = PAGE.size + OPERATIONS * RECORD.size
TRANSFERS_OFFSET = STAGED_OFFSET + STAGED.size
ROWS_OFFSET = TRANSFERS_OFFSET + TRANSFERS * TRANSFER.size
ENDED = struct.Struct("<QQ")  # bytes, and operations that were over at once
ENDED_OFFSET = ROWS_OFFSET + COMMUNICATORS * ROW.size

STATES = ("free", "entering", "running", "done", "failed")
COLLECTIVES = (
    "barrier", "broadcast", "reduce", "all_reduce", "all_gather", "reduce_scatter", "all_to_all",
    "gather", "scatter",
)  # fmt: skip
DTYPES = (
    "float32", "float64", "int32", "int64", "uint8", "float16", "bfloat16", "int8", "int16",
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
_DTYPE_BYTES = (4, 8, 4, 8, 1, 2, 2, 1, 2, 2, 4, 8, 1, 1)
# Collectives whose `count` is the number of elements of one rank's block, not of the whole buffer.
_IN_BLOCKS = frozenset({"all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"})


@dataclass(frozen=True)
class Operation:
    """A collective that had to wait: in flight, or the last one that used its place."""

    sequence: int
    communicator: int
    state: str  # "entering", "running", "done", "failed"
    collective: str
    dtype: str
    count: int
    begin_ns: int  # CLOCK_MONOTONIC; 0: not waited for yet
    step: int
    awaited_peer: int  # world rank; -1: none
    block_bytes: int = 0  # of `count` elements
    in_blocks: bool = False  # the whole buffer has one such block for each rank
    place: int = -1  # on the page: a later operation in the same place has begun after this one

    @property
    def in_flight(self) -> bool:
        return self.state in ("entering", "running")


@dataclass(frozen=True)
class Transfer:
    """A send or receive that waits."""

    kind: str  # "send" or "recv"
    communicator: int
    peer: int  # world rank; -1: any
    tag: int
    bytes: int
    begin_ns: int


@dataclass(frozen=True)
class Progress:
    """How far a rank is in one communicator."""

    communicator: int
    first: int  # world rank of the communicator's rank 0
    ranks: int
    rank: int
    posted: int  # sequence number of the last collective called
    completed: int

    @property
    def key(self) -> tuple[int, int]:
        """The same on all its ranks, and on no others at the same time."""
        return self.communicator, self.first


@dataclass(frozen=True)
class Page:
    """One rank as its page shows it, at `read_ns`."""

    job: str
    rank: int
    ranks: int
    local_rank: int
    node_ranks: int  # ranks of its job on its host
    host: str
    pid: int
    read_ns: int
    heartbeat_ns: int
    driver: int  # thread that last waited for an operation; 0: none
    caller: int  # thread that last called an operation which had to wait; 0: none
    drivers: int  # threads that wait or drive now
    posted: int
    completed: int
    failed: int
    staged: int
    staged_bytes: int
    operations: tuple[Operation, ...]  # without free places
    transfers: tuple[Transfer, ...]
    communicators: tuple[Progress, ...]
    bytes: int = 0  # of the collectives in `completed`: the larger of this rank's two buffers

    @property
    def heartbeat_ms(self) -> int:
        return max(0, self.read_ns - self.heartbeat_ns) // 1_000_000

    @property
    def state(self) -> str:
        """Of the process: "running", "stopped", "gone", or "silent": no heartbeat for a second."""
        try:
            stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return "gone"
        letter = stat.rpartition(")")[2].split()[0]
        if letter in "tT":
            return "stopped"
        if letter in "ZX":
            return "gone"
        return "silent" if self.heartbeat_ms > 1000 else "running"

    @property
    def latest(self) -> Operation | None:
        """What it is in, or else was in last of what its page still shows."""
        return max(self.operations, key=lambda o: (o.in_flight, o.begin_ns), default=None)

    @property
    def waits(self) -> bool:
        """Some thread of it waits for an operation that is in flight."""
        operations = any(o.in_flight and o.begin_ns > 0 for o in self.operations)
        return self.drivers > 0 and (operations or bool(self.transfers))

    def progress(self, key: tuple[int, int]) -> Progress | None:
        return next((row for row in self.communicators if row.key == key), None)


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def _operations(memory: bytes) -> Iterator[Operation]:
    records = RECORD.iter_unpack(memory[PAGE.size : STAGED_OFFSET])
    for place, record in enumerate(records):
        sequence, communicator, state, collective, _, dtype, _, count, begin_ns, step, peer = record
        if state == 0:
            continue
        name = _name(COLLECTIVES, collective)
        width = _DTYPE_BYTES[dtype] if dtype < len(_DTYPE_BYTES) else 0
        yield Operation(
            sequence, communicator, _name(STATES, state), name, _name(DTYPES, dtype), count,
            begin_ns, step, peer if state in (1, 2) else -1, count * width, name in _IN_BLOCKS,
            place,
        )  # fmt: skip


def _transfers(memory: bytes) -> Iterator[Transfer]:
    for state, *rest in TRANSFER.iter_unpack(memory[TRANSFERS_OFFSET:ROWS_OFFSET]):
        if state in (1, 2):
            yield Transfer("send" if state == 1 else "recv", *rest)


def _rows(memory: bytes) -> Iterator[Progress]:
    for row in ROW.iter_unpack(memory[ROWS_OFFSET:ENDED_OFFSET]):
        if row[2] > 0:
            yield Progress(*row)


def decode(memory: bytes, job: str, node_ranks: int, read_ns: int) -> Page | None:
    """The page of one rank; None: of another version of shoal, or not begun yet."""
    (version, pid, rank, ranks, local_rank, drivers, host, heartbeat_ns, driver, caller, posted,
     completed, failed) = PAGE.unpack_from(memory)  # fmt: skip
    if version != VERSION:
        return None
    payload_bytes, at_once = ENDED.unpack_from(memory, ENDED_OFFSET)
    return Page(
        job=job,
        rank=rank,
        ranks=ranks,
        local_rank=local_rank,
        node_ranks=node_ranks,
        host=host.rstrip(b"\0").decode(errors="replace"),
        pid=pid,
        read_ns=read_ns,
        heartbeat_ns=heartbeat_ns,
        driver=driver,
        caller=caller,
        drivers=drivers,
        posted=posted + at_once,
        completed=completed + at_once,
        failed=failed,
        staged=STAGED.unpack_from(memory, STAGED_OFFSET)[0],
        staged_bytes=STAGED.unpack_from(memory, STAGED_OFFSET)[1],
        operations=tuple(_operations(memory)),
        transfers=tuple(_transfers(memory)),
        communicators=tuple(_rows(memory)),
        bytes=payload_bytes,
    )


class Arena:
    """The pages of one node's ranks of one job, mapped: readable also when the job has ended."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises OSError or ValueError for what is not, or not yet, an arena of this version."""
        with open(path, "rb") as file:
            head = os.pread(file.fileno(), HEADER.size, 0)
            if len(head) < HEADER.size:
                raise ValueError("an arena that is being made")
            magic, version, ranks, slice_bytes, job = HEADER.unpack(head)
            if magic != MAGIC or version != VERSION:
                raise ValueError("the arena of another version of shoal")
            self.job: str = job.rstrip(b"\0").decode(errors="replace")
            self._maps = [
                mmap.mmap(
                    file.fileno(), PAGE_OFFSET + PAGE_BYTES, prot=mmap.PROT_READ, offset=offset
                )
                for offset in range(0, ranks * slice_bytes, slice_bytes)
            ]

    def read(self) -> list[Page]:
        now_ns = time.monotonic_ns()
        texts = (memory[PAGE_OFFSET : PAGE_OFFSET + PAGE_BYTES] for memory in self._maps)
        pages = (decode(text, self.job, len(self._maps), now_ns) for text in texts)
        return [page for page in pages if page is not None]

    def close(self) -> None:
        for memory in self._maps:
            memory.close()


def descriptors(process: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """(/proc/PID/fd/N, what it is) of each descriptor of /proc/PID. Raises OSError if the process
    has ended or is another user's; a descriptor that is closed meanwhile hides no other."""
    for name in os.listdir(process / "fd"):
        link = process / "fd" / name
        with contextlib.suppress(OSError):
            yield link, os.readlink(link)


def _paths() -> dict[int, pathlib.Path]:
    """A file to open for each arena that a process of ours maps, by inode."""
    found: dict[int, pathlib.Path] = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link, what in descriptors(process):
                if ARENA_NAME in what:
                    with contextlib.suppress(OSError):
                        found.setdefault(link.stat().st_ino, link)
    return found


class Node:
    """All arenas of this node that this user may read; found anew by `look()`. One thread."""

    def __init__(self, job: str | None = None) -> None:
        self._job = job
        self._arenas: dict[int, Arena] = {}
        self.look()

    def look(self) -> None:
        """Finds jobs that have begun, and drops those that have ended."""
        paths = _paths()
        for inode in set(self._arenas) - set(paths):
            self._arenas.pop(inode).close()
        for inode in set(paths) - set(self._arenas):
            # OSError, ValueError: the job ends or begins just now
            with contextlib.suppress(OSError, ValueError):
                arena = Arena(paths[inode])
                if self._job is None or arena.job == self._job:
                    self._arenas[inode] = arena
                else:
                    arena.close()

    def read(self) -> list[Page]:
        pages = [page for arena in self._arenas.values() for page in arena.read()]
        return sorted(pages, key=lambda page: (page.job, page.rank))


def read_all() -> list[Page]:
    """Every rank of every job on this node whose processes belong to this user."""
    return Node().read()
