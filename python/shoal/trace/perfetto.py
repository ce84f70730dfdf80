"""Writes a trace that ui.perfetto.dev opens: a track per rank, a slice per operation, flows that
join the ranks of a collective, counters, and verdicts where they fell."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

from shoal.pages import Page
from shoal.trace.missing import need
from shoal.trace.spans import Collective, Name, Part
from shoal.trace.verdict import Verdict

COUNTER_NS = 100_000_000  # between two values of a counter
_COUNTERS = 1 << 20  # their place: below all communicators
MAX_LANES = 64  # operations of a rank at the same time; further ones share the last lane
_MONOTONIC = 3  # perfetto's BUILTIN_CLOCK_MONOTONIC, and the others of the snapshot
_CLOCKS = ((1, time.CLOCK_REALTIME), (_MONOTONIC, time.CLOCK_MONOTONIC), (6, time.CLOCK_BOOTTIME))


def _hash(*words: object, bits: int = 63) -> int:
    """An id that nobody has to remember."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - bits)) or 1


class Perfetto:
    """One thread. Writes as it goes: a file that is cut off can still be read."""

    def __init__(self, path: str) -> None:
        protos = need("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
        self._events: Any = protos.TrackEvent
        self._descriptor: Any = protos.TrackDescriptor
        builder = need("perfetto.trace_builder.proto_builder")
        self._file = open(path, "wb")  # noqa: SIM115  (close)
        self._trace: Any = builder.StreamingTraceProtoBuilder(self._file)
        self._sequence = _hash("recorder", socket.gethostname(), bits=31)
        self._tracks: set[int] = set()
        self._lanes: dict[tuple[str, int, int], list[int]] = {}
        self._counted: dict[tuple[str, int], Page] = {}
        snapshot = self._packet().clock_snapshot
        for number, clock in _CLOCKS:
            snapshot.clocks.add(clock_id=number, timestamp=time.clock_gettime_ns(clock))
        self._write(snapshot=True)

    def pages(self, pages: Sequence[Page]) -> None:
        for page in pages:
            before = self._counted.get((page.job, page.rank))
            if before is not None and page.read_ns - before.read_ns < COUNTER_NS:
                continue
            self._counted[(page.job, page.rank)] = page
            if before is None or before.pid != page.pid:
                self._rank_track(page.job, page.rank, page.host, page.pid)
                continue
            seconds = (page.read_ns - before.read_ns) / 1e9
            self._count(page, "operations/s", (page.completed - before.completed) / seconds)
            self._count(page, "bytes/s", (page.bytes - before.bytes) / seconds)

    def collectives(self, collectives: Iterable[Collective]) -> None:
        for one in collectives:
            for part in one.parts:
                self._slice(one, part)
        self._file.flush()

    def verdict(self, verdict: Verdict, name: Name | None) -> None:
        now_ns = time.monotonic_ns()
        if verdict.rank < 0:
            track = self._job_track(verdict.job)
        else:
            track = self._rank_track(verdict.job, verdict.rank, verdict.host, verdict.pid)
        event = self._event(now_ns, self._events.TYPE_INSTANT, track)
        event.name = f"verdict: {verdict.cause}"
        event.categories.append("verdict")
        if name is not None:
            event.flow_ids.append(_flow(name))
        self._annotate(event, dataclasses.asdict(verdict))
        self._write()
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _packet(self) -> Any:
        self._next: Any = self._trace.create_packet()
        return self._next

    def _write(self, snapshot: bool = False) -> None:
        self._next.trusted_packet_sequence_id = self._sequence
        if snapshot:  # the first packet: nothing before it is referred to
            self._next.sequence_flags = 1  # SEQ_INCREMENTAL_STATE_CLEARED
        self._trace.write_packet(self._next)

    def _event(self, t_ns: int, kind: int, track: int) -> Any:
        packet = self._packet()
        packet.timestamp = t_ns
        packet.timestamp_clock_id = _MONOTONIC
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet.track_event

    def _track(self, words: tuple[object, ...], name: str, parent: int = 0, order: int = 0) -> int:
        """Described where it is used first. `order`: among its parent's tracks."""
        uuid = _hash("track", *words)
        if uuid not in self._tracks:
            self._tracks.add(uuid)
            track = self._packet().track_descriptor
            track.uuid = uuid
            track.name = name
            track.child_ordering = self._descriptor.EXPLICIT
            track.sibling_order_rank = order
            if parent:
                track.parent_uuid = parent
            if words[0] == "counter":
                track.counter.SetInParent()
            self._write()
        return uuid

    def _job_track(self, job: str) -> int:
        return self._track(("job", job), f"job {job}")

    def _rank_track(self, job: str, rank: int, host: str, pid: int) -> int:
        name = f"rank {rank} ({host}, pid {pid})"
        return self._track(("rank", job, rank, pid), name, self._job_track(job), rank)

    def _lane(self, one: Collective, part: Part) -> int:
        """Slices of a track have to nest: what overlaps goes to another of the same name, and is
        drawn below it."""
        job, communicator = one.name.job, one.name.communicator
        rank = self._rank_track(job, part.rank, part.host, part.pid)
        ends = self._lanes.setdefault((job, part.rank, communicator), [])
        free = next((i for i, end in enumerate(ends) if end <= part.begin_ns), len(ends))
        free = min(free, MAX_LANES - 1)
        ends[free : free + 1] = [part.end_ns]
        words = ("lane", job, part.rank, part.pid, communicator, free)
        return self._track(words, f"communicator {communicator}", rank, communicator)

    def _slice(self, one: Collective, part: Part) -> None:
        lane = self._lane(one, part)
        event = self._event(part.begin_ns, self._events.TYPE_SLICE_BEGIN, lane)
        event.name = one.kind if part.waited else f"{one.kind} (came last)"
        event.categories.append("collective")
        event.flow_ids.append(_flow(one.name))
        self._annotate(event, {"sequence": one.name.sequence, **dataclasses.asdict(part)})
        self._write()
        if part.state == "in_flight":
            return  # without an end: perfetto says that it did not finish
        self._event(part.end_ns, self._events.TYPE_SLICE_END, lane)
        self._write()

    def _count(self, page: Page, what: str, value: float) -> None:
        rank = self._rank_track(page.job, page.rank, page.host, page.pid)
        track = self._track(("counter", what, page.job, page.rank, page.pid), what, rank, _COUNTERS)
        event = self._event(page.read_ns, self._events.TYPE_COUNTER, track)
        event.double_counter_value = value
        self._write()

    def _annotate(self, event: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            note = event.debug_annotations.add(name=name)
            if isinstance(value, bool):
                note.bool_value = value
            elif isinstance(value, int):
                note.int_value = value
            else:
                note.string_value = "\n".join(value) if isinstance(value, list) else str(value)


def _flow(name: Name) -> int:
    return int.from_bytes(name.trace_id[:8], "big") or 1
