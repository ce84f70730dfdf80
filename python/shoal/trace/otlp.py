"""Writes OpenTelemetry spans as OTLP/JSON: to a file, one export request a line, or to a collector.

A collective is a trace: a root span for it as a whole, a span for each rank below it, and one for
each verdict on it. docs/tracing.md names the attributes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal import _core
from shoal.pages import Page
from shoal.trace import processes
from shoal.trace.spans import Collective, Name, Part
from shoal.trace.verdict import Verdict

POST_S = 5.0  # that a collector has for an answer
MAX_WAITING = 64  # requests that wait for a slow collector; further ones are lost, and counted

Json = dict[str, Any]
_INTERNAL, _OK, _ERROR = 1, 1, 2  # SPAN_KIND_INTERNAL, STATUS_CODE_OK, STATUS_CODE_ERROR
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


def _value(value: object) -> Json:
    """64-bit integers are strings in the JSON mapping of protobuf."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    return {"stringValue": str(value)}


def attributes(values: dict[str, object]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def parse_traceparent(text: str) -> Json | None:
    """The span link of a W3C traceparent; None: it is none."""
    found = _TRACEPARENT.fullmatch(text.strip().lower())
    if found is None or text.startswith("ff") or found[1] == "0" * 32 or found[2] == "0" * 16:
        return None
    return {"traceId": found[1], "spanId": found[2], "flags": int(found[3], 16)}


class Spans:
    """Makes spans. `offset_ns`: from CLOCK_MONOTONIC to the time of day."""

    def __init__(self, offset_ns: int, environment: Callable[[int, str], str]) -> None:
        self._offset_ns = offset_ns
        self._environment = environment
        self._links: dict[int, list[Json]] = {}

    def request(self, collectives: Iterable[Collective]) -> Json:
        """An ExportTraceServiceRequest."""
        by_resource: dict[tuple[str, str, int, int], list[Json]] = {}
        for one in collectives:
            for part in one.parts:
                resource = (one.name.job, part.host, part.rank, part.pid)
                by_resource.setdefault(resource, []).append(self._rank_span(one, part))
            if one.has_root:
                root = (one.name.job, one.parts[0].host, -1, 0)
                by_resource.setdefault(root, []).append(self._root_span(one))
        return _request(by_resource)

    def verdict(self, verdict: Verdict, name: Name, now_ns: int) -> Json:
        trouble = {
            "shoal.cause": verdict.cause, "shoal.rank": verdict.rank,
            "shoal.evidence": verdict.evidence, "shoal.missing": verdict.missing,
            "shoal.provisional": verdict.provisional, **_naming(name, verdict.collective),
        }  # fmt: skip
        identity = name.verdict_id(verdict.cause, verdict.rank, verdict.provisional)
        span = self._span(name, identity, f"verdict {verdict.cause}",
                          now_ns - verdict.since_ms * 1_000_000, now_ns, trouble)  # fmt: skip
        span["parentSpanId"] = name.root_id.hex()
        return _request({(verdict.job, verdict.host, verdict.rank, verdict.pid): [span]})

    def _span(self, name: Name, identity: bytes, title: str, begin_ns: int, end_ns: int,
              values: dict[str, object]) -> Json:  # fmt: skip
        return {
            "traceId": name.trace_id.hex(),
            "spanId": identity.hex(),
            "name": title,
            "kind": _INTERNAL,
            "startTimeUnixNano": str(begin_ns + self._offset_ns),
            "endTimeUnixNano": str(end_ns + self._offset_ns),
            "attributes": attributes(values),
        }

    def _root_span(self, one: Collective) -> Json:
        values = {**_naming(one.name, one.kind), "shoal.communicator.ranks": one.ranks}
        span = self._span(one.name, one.name.root_id, one.kind, one.begin_ns, one.end_ns, values)
        return {**span, "status": _status([part.state for part in one.parts])}

    def _rank_span(self, one: Collective, part: Part) -> Json:
        values: dict[str, object] = {
            **_naming(one.name, one.kind),
            "shoal.rank": part.rank,
            "shoal.state": part.state,
            "shoal.waited": part.waited,
            "shoal.begin_uncertainty_ns": part.begin_uncertainty_ns,
            "shoal.end_uncertainty_ns": part.end_uncertainty_ns,
        }
        if part.waited:
            values |= {
                "shoal.dtype": part.dtype, "shoal.count": part.count, "shoal.bytes": part.bytes,
                "shoal.step": part.step,
            }  # fmt: skip
        if part.awaited_rank >= 0:
            values["shoal.awaited_rank"] = part.awaited_rank
        identity = one.name.rank_id(part.rank)
        span = self._span(one.name, identity, one.kind, part.begin_ns, part.end_ns, values)
        span |= {"parentSpanId": one.name.root_id.hex(), "status": _status([part.state])}
        links = self._links_of(part.pid)
        return {**span, "links": links} if links else span

    def _links_of(self, pid: int) -> list[Json]:
        """To the span that the rank's program runs in, where it was started with one."""
        if pid not in self._links:
            link = parse_traceparent(self._environment(pid, "TRACEPARENT"))
            state = self._environment(pid, "TRACESTATE")
            if link is not None and state:
                link["traceState"] = state
            self._links[pid] = [link] if link is not None else []
        return self._links[pid]


def _naming(name: Name, kind: str) -> dict[str, object]:
    return {
        "shoal.job": name.job, "shoal.collective": kind, "shoal.communicator": name.communicator,
        "shoal.communicator.first": name.first, "shoal.sequence": name.sequence,
    }  # fmt: skip


def _status(states: list[str]) -> Json:
    if "failed" in states:
        return {"code": _ERROR, "message": "the collective raised an error"}
    return {"code": _OK} if all(state == "done" for state in states) else {}


def _request(by_resource: dict[tuple[str, str, int, int], list[Json]]) -> Json:
    scope = {"name": "shoal.trace", "version": _core.__version__}
    resources = []
    for (job, host, rank, pid), spans in by_resource.items():
        values: dict[str, object] = {
            "service.name": "shoal",
            "service.instance.id": f"{job}/{rank}" if rank >= 0 else job,
            "host.name": host,
        }
        if pid:
            values["process.pid"] = pid
        resources.append({
            "resource": {"attributes": attributes(values)},
            "scopeSpans": [{"scope": scope, "spans": spans}],
        })  # fmt: skip
    return {"resourceSpans": resources}


class File:
    """One request a line: what OpenTelemetry's file exporter writes, and its receiver reads."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  (close)

    def send(self, request: Json) -> None:
        self._file.write(json.dumps(request, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Collector:
    """POSTs in a thread of its own: one that is slow or away never holds up the watching."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        path = "/v1/traces" if parts.path in ("", "/") else parts.path
        self._url = urllib.parse.urlunsplit(parts._replace(path=path))
        self._headers = {"Content-Type": "application/json", **_headers_of_environment()}
        self._requests: queue.Queue[Json | None] = queue.Queue(MAX_WAITING)
        self._warned = False
        self.lost = 0  # requests
        self._thread = threading.Thread(target=self._work, name="otlp", daemon=True)
        self._thread.start()

    def send(self, request: Json) -> None:
        try:
            self._requests.put_nowait(request)
        except queue.Full:
            self._lose("it does not keep up")

    def close(self) -> None:
        """Waits for what is under way, for as long as two requests may take."""
        with contextlib.suppress(queue.Full):
            self._requests.put(None, timeout=POST_S)
            self._thread.join(POST_S)
        self.lost += self._requests.qsize()
        if self.lost:
            print(f"shoal trace: {self.lost} requests did not reach {self._url}", file=sys.stderr)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                self._post(request)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._lose(str(error))

    def _post(self, request: Json) -> None:
        body = json.dumps(request, separators=(",", ":")).encode()
        post = urllib.request.Request(self._url, body, self._headers, method="POST")
        with urllib.request.urlopen(post, timeout=POST_S) as answer:
            answer.read()

    def _lose(self, why: str) -> None:
        self.lost += 1
        if not self._warned:
            print(f"shoal trace: warning: no spans to {self._url}: {why}", file=sys.stderr)
        self._warned = True


def _headers_of_environment() -> dict[str, str]:
    """Of OTEL_EXPORTER_OTLP_HEADERS, by which every exporter is told an access token."""
    pairs = os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")
    words = (pair.partition("=") for pair in pairs if "=" in pair)
    return {key.strip(): urllib.parse.unquote(value.strip()) for key, _, value in words}


class Otlp:
    """Spans to a file, or to a collector if `where` is a URL. One thread."""

    def __init__(self, where: str) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._spans = Spans(self._offset_ns, processes.environment)
        is_url = where.startswith(("http://", "https://"))
        self._out: File | Collector = Collector(where) if is_url else File(where)

    def pages(self, pages: Sequence[Page]) -> None:
        """Spans only."""

    def collectives(self, collectives: Sequence[Collective]) -> None:
        if collectives:
            self._out.send(self._spans.request(collectives))

    def verdict(self, verdict: Verdict, name: Name | None) -> None:
        if name is not None:
            self._out.send(self._spans.verdict(verdict, name, time.monotonic_ns()))

    def close(self) -> None:
        self._out.close()
