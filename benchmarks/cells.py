"""What is measured: operations and sizes, and what a time means as a bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What the machine does without a library: a cache line sent across, copy and add of a size; over a
# network a message (half the time there and back), and one each way at once, by a socket that never
# sleeps.
FLOORS = ("ping_pong", "copy", "add")
NETWORK_FLOORS = ("ping_pong", "add", "tcp_ping_pong", "tcp_stream")
OPS = ("barrier", "broadcast", "all_reduce", "all_gather", "reduce_scatter", "all_to_all")
QUICK_SIZES = "8,1Ki,16Ki,128Ki,1Mi,16Mi"
FULL_SIZES = "8,1Ki,16Ki,128Ki,1Mi,16Mi,64Mi"

_WITHOUT_BUFFERS = ("barrier", "ping_pong")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


@dataclass(frozen=True)
class Cell:
    """One operation (or floor) at one size: that of the largest buffer of a rank, in bytes."""

    op: str
    bytes: int

    @property
    def is_short(self) -> bool:
        """Calls are timed in blocks: one alone is too short for the clock."""
        return self.bytes < 64 << 10

    @property
    def is_floor(self) -> bool:
        return self.op in FLOORS or self.is_network

    @property
    def is_network(self) -> bool:
        """A floor of the network."""
        return self.op.startswith("tcp_")

    def __str__(self) -> str:
        return f"{self.op} {size_text(self.bytes)}" if self.bytes else self.op


def cells_of(ops: Sequence[str], sizes: list[int]) -> list[Cell]:
    return [Cell(op, size) for op in ops for size in ([0] if op in _WITHOUT_BUFFERS else sizes)]


def parse_size(text: str) -> int:
    """ "8" -> 8, "16Ki" -> 16384. Raises ValueError that says what is wrong."""
    digits, unit = (text[:-2], _UNITS.get(text[-2:])) if text[-1:] == "i" else (text, 1)
    if unit is None or not digits.isdigit():
        raise ValueError(f"{text!r} is not a size; write for example 8, 16Ki or 1Mi")
    size = int(digits) * unit
    if size < 4 or size % 4:
        raise ValueError(f"{text}: sizes are multiples of 4 bytes (float32), at least 4")
    return size


def size_text(size: int) -> str:
    for unit, factor in reversed(_UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor} {unit}B"
    return f"{size} B"


def bus_factor(op: str, ranks: int) -> float:
    """Bytes on the busiest link in the best algorithm, over the cell's bytes (as nccl-tests)."""
    one_way = (ranks - 1) / ranks
    return {"barrier": 0.0, "broadcast": 1.0, "all_reduce": 2 * one_way}.get(op, one_way)
