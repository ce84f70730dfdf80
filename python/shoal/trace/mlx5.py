"""Completion queues of mlx5, which lie in the memory of the process: the device writes there, and
no header says how far it has come.

Each element carries an owner bit that the device turns over with every round of the ring. From the
index up to which the process has taken elements, those that are its own and not yet taken follow
one another. A compressed element stands for several and is counted once.

Nothing tells where a process has its queues: libmlx5 keeps no list of them, and UCX's own
transports for mlx5 (rc_x, dc_x) take elements past libmlx5's index. Who knows the address of a
`struct mlx5_cq`, from a debugger say, can read it here. Tested on recorded layouts only, never with
a device.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable
from dataclasses import dataclass

from shoal.trace.queues import Queue

Read = Callable[[int, int], bytes]  # (address, length); b"": not there

_OWNER = 0x1  # of its last byte; the upper half of that is an opcode
_INVALID = 0xF
_MOST_ENTRIES = 1 << 22  # that a device takes
_INTEGER, _POINTER = struct.Struct("=I"), struct.Struct("=Q")


@dataclass(frozen=True)
class Layout:
    """Where the members of libmlx5's `struct mlx5_cq` are, in bytes. It is private and changes."""

    last: int  # verbs_cq.cq.cqe: one less than there are elements
    buffer: int  # active_buf, a pointer to a struct mlx5_buf, whose first member is the address
    number: int  # cqn
    consumed: int  # cons_index
    element_bytes: int  # cqe_sz


# As the compiler lays out version 44 on x86-64 and arm64.
RDMA_CORE_44 = Layout(last=28, buffer=416, number=452, consumed=456, element_bytes=480)


def is_ready(operation: int, index: int, entries: int) -> bool:
    """`operation`: the last byte of the element at `index`, which counts on without end."""
    turned = (index // entries) & 1
    return operation >> 4 != _INVALID and operation & _OWNER == turned


def count_waiting(operation: Callable[[int], int], consumed: int, entries: int) -> int:
    """Elements that the device has written and nobody has taken. `operation(place)`: the last byte
    of the element at a place of the ring. Looks at a few: those that wait lie together."""

    def is_free(ahead: int) -> bool:
        index = consumed + ahead
        return not is_ready(operation(index % entries), index, entries)

    return bisect.bisect_left(range(entries), True, key=is_free)


def read_queue(read: Read, address: int, layout: Layout, device: str) -> Queue | None:
    """The queue at `address`. None: there is none, or not of this layout."""

    def integer(at: int) -> int:
        return int(_INTEGER.unpack(read(at, _INTEGER.size))[0])

    def pointer(at: int) -> int:
        return int(_POINTER.unpack(read(at, _POINTER.size))[0])

    try:
        entries = integer(address + layout.last) + 1
        size = integer(address + layout.element_bytes)
        if entries & (entries - 1) or entries > _MOST_ENTRIES or size not in (64, 128):
            return None
        consumed = integer(address + layout.consumed)
        buffer = pointer(pointer(address + layout.buffer))
        last_byte = buffer + size - 1
        waiting = count_waiting(lambda n: read(last_byte + n * size, 1)[0], consumed, entries)
    except (struct.error, IndexError):  # what is there is no address, or cannot be read
        return None
    number = integer(address + layout.number)
    waiting = min(waiting, entries - 1)  # of a full queue both indices would be the same
    return Queue(device, "completion", buffer, entries, consumed + waiting, consumed, number)
