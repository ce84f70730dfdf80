"""The queues that a process shares with its RDMA devices, read from outside and also while it is
stopped: what has been completed and waits to be taken, what has been posted and is not completed.

Of rxe, RoCE in software, as <rdma/rdma_user_rxe.h> lays them out: each queue is a mapping of the
device's file that begins with a header. Which kind it is nobody says, but

  * a send queue has elements of 256 bytes or more, for they hold a header and room for data;
  * an element of a completion queue names the queue pair it belongs to, in a place where an element
    of a receive queue has its number of segments: 1 to 32, below every number of a queue pair.

Needs the right to trace the process: the same user, or CAP_SYS_PTRACE.
"""

from __future__ import annotations

import os
import pathlib
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from shoal.trace.cgroups import read_text

VERBS = pathlib.Path("/sys/class/infiniband_verbs")

_HEADER_BYTES = 384  # of struct rxe_queue_buf
_SHIFT_AND_MASK = struct.Struct("=II")
_PRODUCER, _CONSUMER = 128, 256  # where its indices are, each in a cache line of its own
_INDEX = struct.Struct("=I")
_PAIR = 28  # ib_uverbs_wc.qp_num, and num_sge of a receive
_SMALLEST, _LARGEST = 6, 14  # binary logarithm of the size of an element
_SMALLEST_SEND = 8
_MOST_ENTRIES = 1 << 20
_MOST_QUEUES = 1024  # of a process


@dataclass(frozen=True)
class Queue:
    """One queue at one moment. Indices count modulo `entries`."""

    device: str
    kind: str  # "completion", "send", "receive"
    place: int  # the mapping's offset in the device, by which it is known again
    entries: int
    produced: int
    consumed: int
    number: int = -1  # of the completion queue, or of the queue pair that it is the send queue of

    @property
    def waiting(self) -> int:
        return (self.produced - self.consumed) % self.entries

    @property
    def name(self) -> str:
        if self.number >= 0:
            what = "completion queue" if self.kind == "completion" else "queue pair"
            return f"{what} {self.number} of {self.device}"
        return f"{self.kind} queue at {self.place:#x} of {self.device}"


@dataclass(frozen=True)
class Mapping:
    """A mapping of a device's file."""

    device: str
    begin: int
    length: int
    offset: int


def parse_maps(text: str, devices: dict[str, str]) -> Iterator[Mapping]:
    """`devices`: by the name of its file, "uverbs0"."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 6 or not fields[5].startswith("/dev/infiniband/uverbs"):
            continue
        begin, _, end = fields[0].partition("-")
        device = devices.get(fields[5].rpartition("/")[2])
        if device is not None:
            first = int(begin, 16)
            yield Mapping(device, first, int(end, 16) - first, int(fields[2], 16))


def decode(mapping: Mapping, header: bytes) -> tuple[int, Queue] | None:
    """(binary logarithm of the size of an element, the queue). None: this is no queue."""
    if len(header) < _HEADER_BYTES:
        return None
    shift, mask = _SHIFT_AND_MASK.unpack_from(header)
    entries = mask + 1
    if not _SMALLEST <= shift <= _LARGEST or entries & mask or entries > _MOST_ENTRIES:
        return None
    if _HEADER_BYTES + (entries << shift) > mapping.length:
        return None
    kind = "send" if shift >= _SMALLEST_SEND else "receive"
    produced, consumed = (_INDEX.unpack_from(header, at)[0] & mask for at in (_PRODUCER, _CONSUMER))
    return shift, Queue(mapping.device, kind, mapping.offset, entries, produced, consumed)


class _Memory:
    """The memory of another process. Used as a context."""

    def __init__(self, pid: int) -> None:
        self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY)

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self, address: int, length: int) -> bytes:
        """b"" if it is not there any more, or cannot be read."""
        try:
            return os.pread(self._file, length, address)
        except OSError:
            return b""


def _read(memory: _Memory, mapping: Mapping, pairs: Collection[int]) -> Queue | None:
    found = decode(mapping, memory.read(mapping.begin, _HEADER_BYTES))
    if found is None:
        return None
    shift, queue = found
    if queue.kind == "send":
        return queue
    # What waits, or else what was taken last.
    index = queue.consumed if queue.waiting else (queue.produced - 1) % queue.entries
    element = memory.read(mapping.begin + _HEADER_BYTES + (index << shift), _PAIR + _INDEX.size)
    if len(element) == _PAIR + _INDEX.size and _INDEX.unpack_from(element, _PAIR)[0] in pairs:
        return replace(queue, kind="completion")
    return queue


def numbered(
    queues: Sequence[Queue],
    completion: dict[str, list[tuple[int, int]]],
    pairs: dict[str, list[int]],
) -> tuple[Queue, ...]:
    """With the kernel's numbers: both they and the places in the device rise from one made to the
    next. `completion`: (number, entries) by device. Nothing is numbered that does not fit."""
    numbers: dict[tuple[str, int], int] = {}
    for device in {queue.device for queue in queues}:
        mine = sorted((q for q in queues if q.device == device), key=lambda q: q.place)
        sends = [queue.place for queue in mine if queue.kind == "send"]
        if len(sends) == len(pairs.get(device, ())):
            numbers |= {(device, p): n for p, n in zip(sends, sorted(pairs[device]), strict=True)}
        # One that has never been used could be a completion queue as well.
        rest = iter(q for q in mine if q.kind == "completion" or q.produced == q.consumed == 0)
        for number, entries in sorted(completion.get(device, ())):
            match = next((queue for queue in rest if queue.entries == entries), None)
            if match is None:
                break
            numbers[device, match.place] = number
    return tuple(replace(q, number=numbers.get((q.device, q.place), -1)) for q in queues)


def _devices() -> dict[str, str]:
    """Those of rxe: the file's name -> the device's."""
    found = {}
    for entry in VERBS.glob("uverbs*"):
        device = read_text(entry / "ibdev").strip()
        description = read_text(pathlib.Path(f"/sys/class/infiniband/{device}/node_desc"))
        if device and (description.strip() == "rxe" or device.startswith("rxe")):
            found[entry.name] = device
    return found


def read_queues(pid: int, pairs: dict[str, list[int]]) -> tuple[Queue, ...] | None:
    """`pairs`: numbers of its queue pairs, by device. None: it may not be looked at, or is gone."""
    devices = _devices()
    if not devices:
        return ()
    try:
        text = pathlib.Path(f"/proc/{pid}/maps").read_text()
        mappings = list(parse_maps(text, devices))[:_MOST_QUEUES]
        if not mappings:
            return ()
        with _Memory(pid) as memory:
            read = [_read(memory, one, pairs.get(one.device, ())) for one in mappings]
    except OSError:
        return None
    return tuple(queue for queue in read if queue is not None)
