"""Reads the progress pages of the jobs on this node, from outside: also of stopped ranks.

Layout: include/shoal/abi/progress_page.h. The offsets below are compared with the compiler's by a
test (`_core.abi_layout()`).
"""

from __future__ import annotations

import mmap
import os
import pathlib
import struct
import time
from dataclasses import dataclass

ARENA_NAME = "memfd:shoal-arena"
MAGIC = 0x616E6572616C6F68
VERSION = 2
PAGE_OFFSET, PAGE_BYTES, OPERATIONS, RECORD_BYTES = 4096, 4096, 16, 64

HEADER = struct.Struct("<QIiq64s")  # magic, version, ranks, slice_bytes, job
# version, pid, rank, ranks, local_rank, (reserved), host, heartbeat_ns, thread_id, (reserved),
# posted, completed, failed
PAGE = struct.Struct("<Iiiiii64sqiIQQQ")
# sequence, communicator, state, collective, algorithm, dtype, op, count, begin_ns, step, awaited
RECORD = struct.Struct("<QIIIIIIqqIi")

STATES = ("free", "entering", "running", "done", "failed")
COLLECTIVES = (
    "barrier", "broadcast", "reduce", "all_reduce", "all_gather", "reduce_scatter", "all_to_all",
    "gather", "scatter",
)  # fmt: skip
DTYPES = (
    "float32", "float64", "int32", "int64", "uint8", "float16", "bfloat16", "int8", "int16",
    "uint16", "uint32", "uint64",
)  # fmt: skip


@dataclass(frozen=True)
class RankState:
    """One rank as its page shows it."""

    job: str
    rank: int
    ranks: int
    host: str
    pid: int
    state: str  # "running", "stopped", "gone", or "silent" (no heartbeat for a second)
    heartbeat_ms: int  # since the last one
    posted: int
    completed: int
    failed: int
    communicator: int
    sequence: int
    collective: str
    dtype: str
    count: int
    operation: str  # "entering", "running", "done", "failed", or "" (none yet)
    step: int
    awaited_peer: int  # -1: none
    age_ms: int  # since the operation began


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def _arenas() -> dict[int, pathlib.Path]:
    """A file to open for each arena that a process of ours maps, by inode."""
    found: dict[int, pathlib.Path] = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            for link in (process / "fd").iterdir():
                if ARENA_NAME in os.readlink(link):
                    found.setdefault(link.stat().st_ino, link)
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def _process_state(pid: int, heartbeat_ms: int) -> str:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    letter = stat.rpartition(")")[2].split()[0]
    if letter in "tT":
        return "stopped"
    if letter in "ZX":
        return "gone"
    return "silent" if heartbeat_ms > 1000 else "running"


def _decode(memory: bytes, job: str, now_ns: int) -> RankState | None:
    fields = PAGE.unpack_from(memory)
    version, pid, rank, ranks, _, _, host, heartbeat_ns, _, _, posted, completed, failed = fields
    if version != VERSION:
        return None
    records = [RECORD.unpack_from(memory, PAGE.size + i * RECORD_BYTES) for i in range(OPERATIONS)]
    latest = max(records, key=lambda record: (record[2] in (1, 2), record[8]))
    sequence, communicator, state, collective, _, dtype, _, count, begin_ns, step, peer = latest
    heartbeat_ms = max(0, now_ns - heartbeat_ns) // 1_000_000
    return RankState(
        job=job,
        rank=rank,
        ranks=ranks,
        host=host.rstrip(b"\0").decode(errors="replace"),
        pid=pid,
        state=_process_state(pid, heartbeat_ms),
        heartbeat_ms=heartbeat_ms,
        posted=posted,
        completed=completed,
        failed=failed,
        communicator=communicator,
        sequence=sequence,
        collective=_name(COLLECTIVES, collective) if state else "",
        dtype=_name(DTYPES, dtype) if state else "",
        count=count,
        operation=_name(STATES, state) if state else "",
        step=step,
        awaited_peer=peer if state in (1, 2) else -1,
        age_ms=(now_ns - begin_ns) // 1_000_000 if state else 0,
    )


def _read_arena(path: pathlib.Path) -> list[RankState]:
    now_ns = time.monotonic_ns()
    states = []
    with open(path, "rb") as file:
        head = os.pread(file.fileno(), HEADER.size, 0)
        if len(head) < HEADER.size:
            return []
        magic, version, ranks, slice_bytes, job = HEADER.unpack(head)
        if magic != MAGIC or version != VERSION:
            return []
        name = job.rstrip(b"\0").decode(errors="replace")
        for local_rank in range(ranks):
            offset = local_rank * slice_bytes
            with mmap.mmap(
                file.fileno(), PAGE_OFFSET + PAGE_BYTES, prot=mmap.PROT_READ, offset=offset
            ) as memory:
                page = memory[PAGE_OFFSET : PAGE_OFFSET + PAGE_BYTES]
            state = _decode(page, name, now_ns)
            if state is not None:
                states.append(state)
    return states


def read_all() -> list[RankState]:
    """Every rank of every job on this node whose processes belong to this user."""
    states: list[RankState] = []
    for path in _arenas().values():
        try:
            states.extend(_read_arena(path))
        except (OSError, ValueError):  # ValueError: mmap of a file that is still growing
            continue  # the job ends or begins just now
    return sorted(states, key=lambda state: (state.job, state.rank))
