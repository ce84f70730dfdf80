"""What of the communication runs beside the backward pass, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_STEPS = 5
_BACKWARD = "autograd::engine::evaluate_function"
_LAUNCH = "c10d::allreduce_"  # within backward: the call that starts communication
_OPERATIONS = ("gloo:all_reduce", "shoal:all_reduce")

Span = tuple[float, float]


def trace(step: Callable[[], None], meet: Callable[[], None]) -> dict[str, float]:
    """Sums over some steps, in microseconds: how long all_reduces were under way, and of that
    beside backward; and how many of them had ended before backward did."""
    total = {"communication_us": 0.0, "overlapped_us": 0.0, "backward_us": 0.0, "calls": 0.0,
             "ended_in_backward": 0.0}  # fmt: skip
    for _ in range(_STEPS):
        meet()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        for name, value in of_events(profile.events()).items():
            total[name] += value
    return total


def of_events(events: Iterable[Any]) -> dict[str, float]:
    """One step's."""
    spans: dict[str, list[Span]] = {"backward": [], "launch": [], "operation": []}
    for event in events:
        span = (event.time_range.start, event.time_range.end)
        if event.name.startswith(_BACKWARD):
            spans["backward"].append(span)
        elif event.name == _LAUNCH:
            spans["launch"].append(span)
        elif event.name in _OPERATIONS:
            spans["operation"].append(span)
    communication = union(spans["operation"])
    backward = union(spans["backward"])
    beside = length(both(communication, backward))
    # The call itself is part of backward's functions, but computes nothing.
    launching = length(both(both(communication, backward), union(spans["launch"])))
    end = max((end for _, end in backward), default=0.0)
    return {
        "communication_us": length(communication),
        "overlapped_us": beside - launching,
        "backward_us": length(backward),
        "calls": len(spans["operation"]),
        "ended_in_backward": sum(stop <= end for _, stop in spans["operation"]),
    }


def union(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans that cover the same time, in order."""
    result: list[Span] = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def both(a: list[Span], b: list[Span]) -> list[Span]:
    """Where spans of two unions lie over one another."""
    overlaps = ((max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b)
    return [span for span in overlaps if span[0] < span[1]]


def length(spans: Iterable[Span]) -> float:
    return sum(end - begin for begin, end in spans)
