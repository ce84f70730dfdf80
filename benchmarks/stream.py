"""What an operation between two hosts takes at least: a stream of its bytes, and their sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from .rows import Floor, Row

FROM_BYTES = 1 << 20  # below, messages rather than bytes decide
_HOSTS = 2


def over_stream(row: Row, floors: Iterable[Floor]) -> float | None:
    """shoal's time over that floor; None where there is none to compare with."""
    floor = floor_us(row, floors)
    return None if floor is None else row.shoal_us / floor


def floor_us(row: Row, floors: Iterable[Floor]) -> float | None:
    """All ranks of a host send and receive at once what must cross, each its share, as in the
    floor `tcp_stream`; then each adds its share of what must be added there, as in `add`. A
    broadcast's bytes go one way, as in `tcp_ping_pong`."""
    if row.network != "tcp" or row.bytes < FROM_BYTES:
        return None
    of = [f for f in floors if (f.network, f.ranks) == (row.network, row.ranks)]
    stream, ping_pong, add = (_curve(of, name) for name in ("tcp_stream", "tcp_ping_pong", "add"))
    if stream is None or ping_pong is None or add is None:
        return None
    local = row.ranks / _HOSTS
    match row.op:
        case "broadcast":
            return ping_pong(row.bytes)
        case "all_reduce":  # half of the sum is made here, the other half comes
            return stream(row.bytes / local) + add(row.bytes / row.ranks)
        case "all_gather":
            return stream(row.bytes / row.ranks)
        case "reduce_scatter":
            return stream(row.bytes / row.ranks) + add(row.bytes / row.ranks)
        case "all_to_all":
            return stream(row.bytes / _HOSTS)
    return None


def _curve(floors: list[Floor], name: str) -> Callable[[float], float] | None:
    """Time by bytes: straight lines between what was measured, on logarithmic axes."""
    points = sorted((f.bytes, f.us) for f in floors if f.floor == name and f.bytes and f.us > 0)
    if len(points) < 2:
        return None

    def at(size: float) -> float:
        above = next((i for i, (b, _) in enumerate(points) if b >= size), len(points) - 1)
        (b0, t0), (b1, t1) = points[max(0, above - 1)], points[max(1, above)]
        slope = math.log(t1 / t0) / math.log(b1 / b0)
        return t0 * math.exp(slope * math.log(size / b0))

    return at
