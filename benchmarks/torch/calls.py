"""The operations of torch.distributed as they are timed: tensors, the call, what must come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist

_UNTOUCHED = -1.0  # what an earlier call left
Filling = tuple[torch.Tensor, "torch.Tensor | float"]


@dataclass
class Operation:
    """Before each block the tensors are filled; after one call they hold what is expected."""

    call: Callable[[], object]
    fillings: list[Filling] = field(default_factory=list)
    expected: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def fill(self) -> None:
        for tensor, content in self.fillings:
            if isinstance(content, torch.Tensor):
                tensor.copy_(content)
            else:
                tensor.fill_(content)

    def wrong(self) -> str | None:
        for tensor, content in self.expected:
            if not torch.equal(tensor, content):
                at = int((tensor != content).nonzero()[0])
                return f"element {at} is {float(tensor[at])}, not {float(content[at])}"
        return None


@dataclass(frozen=True)
class Place:
    """Where operations are made: a group, this rank in it, and the memory tensors come from."""

    group: dist.ProcessGroup | None
    rank: int
    ranks: int
    memory: Callable[[], contextlib.AbstractContextManager[None]]
    check: Callable[[torch.Tensor], None]  # raises ValueError: not in that memory

    def empty(self, count: int) -> torch.Tensor:
        with self.memory():
            tensor = torch.empty(count)
        self.check(tensor)
        return tensor


def make(op: str, size: int, place: Place) -> Operation:
    """`size`: bytes of the largest buffer of a rank, or the nearest that has elements for all."""
    elements = max(1, size // 4)
    part = max(1, elements // place.ranks)
    match op:
        case "barrier":
            return Operation(partial(dist.barrier, group=place.group))
        case "all_reduce" | "broadcast" | "reduce":
            return _in_place(op, elements, place)
        case "all_gather_into_tensor" | "all_gather" | "gather":
            return _gathering(op, part, place)
        case "reduce_scatter_tensor" | "reduce_scatter" | "scatter":
            return _scattering(op, part, place)
        case "all_to_all_single" | "all_to_all_uneven":
            return _exchange(elements, place, even=op == "all_to_all_single")
        case "send_recv":
            return _ping_pong(elements, place)
    raise ValueError(f"no operation {op}")


def _ripple(count: int) -> torch.Tensor:
    """0..7, without a period: small, so that sums are exact in any order."""
    return ((torch.arange(count) * 2654435761 & 0xFFFFFFFF) >> 29).float()


def _content(rank: int, count: int) -> torch.Tensor:
    return _ripple(count) + rank


def _total(place: Place, count: int) -> torch.Tensor:
    return _ripple(count) * place.ranks + place.ranks * (place.ranks - 1) // 2


def _in_place(op: str, count: int, place: Place) -> Operation:
    x = place.empty(count)
    mine = _content(place.rank, count)
    is_root = place.rank == 0
    match op:
        case "all_reduce":
            call = partial(dist.all_reduce, x, group=place.group)
            return Operation(call, [(x, mine)], [(x, _total(place, count))])
        case "broadcast":
            call = partial(dist.broadcast, x, src=0, group=place.group)
            filling = mine if is_root else _UNTOUCHED
            return Operation(call, [(x, filling)], [(x, _content(0, count))])
        case _:
            call = partial(dist.reduce, x, dst=0, group=place.group)
            return Operation(call, [(x, mine)], [(x, _total(place, count))] if is_root else [])


def _gathering(op: str, part: int, place: Place) -> Operation:
    x, mine = place.empty(part), _content(place.rank, part)
    group = place.group
    if op == "all_gather_into_tensor":
        whole = place.empty(part * place.ranks)
        everything = torch.cat([_content(rank, part) for rank in range(place.ranks)])
        call = partial(dist.all_gather_into_tensor, whole, x, group=group)
        return Operation(call, [(x, mine), (whole, _UNTOUCHED)], [(whole, everything)])
    takes = op == "all_gather" or place.rank == 0
    parts = [place.empty(part) for _ in range(place.ranks)] if takes else []
    if op == "all_gather":
        call = partial(dist.all_gather, parts, x, group=group)
    else:
        call = partial(dist.gather, x, parts if takes else None, dst=0, group=group)
    return Operation(
        call,
        [(x, mine), *((one, _UNTOUCHED) for one in parts)],
        [(one, _content(rank, part)) for rank, one in enumerate(parts)],
    )


def _scattering(op: str, part: int, place: Place) -> Operation:
    y, group = place.empty(part), place.group
    if op == "scatter":
        parts = [place.empty(part) for _ in range(place.ranks)] if place.rank == 0 else []
        call = partial(dist.scatter, y, parts or None, src=0, group=group)
        given: list[Filling] = [(one, _content(rank, part)) for rank, one in enumerate(parts)]
        return Operation(call, [*given, (y, _UNTOUCHED)], [(y, _content(place.rank, part))])
    count = part * place.ranks
    mine = _content(place.rank, count)
    if op == "reduce_scatter_tensor":
        x = place.empty(count)
        call = partial(dist.reduce_scatter_tensor, y, x, group=group)
        given = [(x, mine)]
    else:
        parts = [place.empty(part) for _ in range(place.ranks)]
        call = partial(dist.reduce_scatter, y, parts, group=group)
        given = list(zip(parts, mine.split(part), strict=True))
    return Operation(
        call,
        [*given, (y, _UNTOUCHED)],
        [(y, _total(place, count).split(part)[place.rank])],
    )


def _exchange(elements: int, place: Place, even: bool) -> Operation:
    """Uneven: from 1 to `ranks` units, as many back as there."""
    ranks = place.ranks
    weights = [1 if even else 1 + (place.rank + peer) % ranks for peer in range(ranks)]
    unit = max(1, elements // sum(weights))
    splits = [unit * weight for weight in weights]
    x, y = place.empty(sum(splits)), place.empty(sum(splits))
    mine = torch.cat([_content(place.rank * ranks + to, n) for to, n in enumerate(splits)])
    theirs = torch.cat([_content(of * ranks + place.rank, n) for of, n in enumerate(splits)])
    if even:
        call = partial(dist.all_to_all_single, y, x, group=place.group)
    else:
        call = partial(dist.all_to_all_single, y, x, splits, splits, group=place.group)
    return Operation(call, [(x, mine), (y, _UNTOUCHED)], [(y, theirs)])


def _ping_pong(count: int, place: Place) -> Operation:
    """Ranks 0 and 1, 2 and 3, ...: there and back."""
    peer, group = place.rank ^ 1, place.group
    x, y = place.empty(count), place.empty(count)
    first: Callable[[], object] = partial(dist.send, x, peer, group)
    second: Callable[[], object] = partial(dist.recv, y, peer, group)
    if place.rank % 2:
        first, second = second, first
    if peer >= place.ranks:
        return Operation(lambda: None)

    def there_and_back() -> None:
        first()
        second()

    fillings: list[Filling] = [(x, _content(place.rank, count)), (y, _UNTOUCHED)]
    return Operation(there_and_back, fillings, [(y, _content(peer, count))])
