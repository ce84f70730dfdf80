"""What `shoal trace` records: spans from looks at made-up pages, and both file formats read back by
the libraries of those who define them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.server
import json
import pathlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackDescriptor, TrackEvent

from shoal.pages import Operation, Page
from shoal.trace import otlp as otlp_module
from shoal.trace.otlp import Collector, Otlp, Spans, parse_traceparent
from shoal.trace.perfetto import Perfetto
from shoal.trace.spans import Collective, Name, Part, Tracker
from shoal.trace.verdict import Verdict
from tests.trace.conftest import TRACEPARENT, RunningJob, loops_of, shoal
from tests.trace.made_up import MS, NOW, operation, page

VERDICT = Verdict(1, "here", 101, "sleeping", 300, "job", 0, "all_reduce", 5,
                  ["in clock_nanosleep", "rank 1 has posted #4"])  # fmt: skip


def at(t_ms: int, rank: int, posted: int, *operations: Operation, **changes: object) -> Page:
    """A rank's page as it was read at NOW + t."""
    return dataclasses.replace(
        page(rank, posted, None, ranks=2, operations=operations, **changes),
        read_ns=NOW + t_ms * MS,
    )


def waits(sequence: int, begin_ms: int, state: str = "running", **changes: object) -> Operation:
    return operation(sequence, 1, state=state, begin_ns=NOW + begin_ms * MS, block_bytes=4000,
                     place=0, **changes)  # fmt: skip


def watch(*looks: Sequence[Page], to_the_end: bool = True) -> list[Collective]:
    tracker = Tracker()
    found = [one for look in looks for one in tracker.observe(look)]
    return found + (tracker.finish() if to_the_end else [])


def late_second_rank() -> list[Collective]:
    """Rank 0 waits for #5 from 5 ms; rank 1 posts it between 20 and 40 ms, and all is over."""
    return watch(
        [at(0, 0, 4), at(0, 1, 4)],
        [at(20, 0, 5, waits(5, 5)), at(20, 1, 4)],
        [at(40, 0, 5, waits(5, 5, "done")), at(40, 1, 5)],
    )


def test_an_operation_in_flight_ends_between_two_looks() -> None:
    (one,) = late_second_rank()
    assert (one.kind, one.ranks, one.has_root) == ("all_reduce", 2, True)
    waited, late = one.parts
    assert (waited.begin_ns, waited.end_ns) == (NOW + 5 * MS, NOW + 40 * MS)
    assert waited.end_uncertainty_ns == 20 * MS and waited.begin_uncertainty_ns == 0
    assert (waited.state, waited.awaited_rank, waited.bytes) == ("done", 1, 4000)
    assert not late.waited and late.begin_uncertainty_ns == 20 * MS
    assert (late.begin_ns, late.end_ns) == (NOW + 20 * MS, NOW + 40 * MS)


def test_a_later_operation_in_its_place_bounds_the_end() -> None:
    first, second = watch(
        [at(0, 0, 4), at(0, 1, 4)],
        [at(20, 0, 5, waits(5, 5)), at(20, 1, 5)],
        [at(40, 0, 6, waits(6, 25)), at(40, 1, 6)],
        [at(60, 0, 6, waits(6, 25, "done")), at(60, 1, 6)],
    )
    assert first.parts[0].end_ns == NOW + 25 * MS and first.parts[0].end_uncertainty_ns == 5 * MS
    assert second.parts[0].begin_ns == NOW + 25 * MS


def test_what_was_over_before_the_first_look_is_left_out() -> None:
    assert (
        watch([at(0, 0, 5, waits(5, -400, "done"))], [at(20, 0, 5, waits(5, -400, "done"))]) == []
    )


def test_what_is_seen_when_it_is_over_began_within_the_look() -> None:
    (one,) = watch([at(0, 0, 4)], [at(20, 0, 5, waits(5, 17, "done"))])
    assert one.parts[0].begin_ns == NOW + 17 * MS and one.parts[0].end_uncertainty_ns == 3 * MS


def test_a_half_written_record_keeps_no_other_operations_begin() -> None:
    (first, second) = watch(
        [at(0, 0, 4)],
        [at(20, 0, 5, waits(5, 5))],
        [at(40, 0, 6, waits(6, 5, "entering"))],  # sequence is new, begin_ns not yet
        [at(60, 0, 6, waits(6, 45))],
        [at(80, 0, 6, waits(6, 45, "done"))],
    )
    assert first.parts[0].end_ns == NOW + 45 * MS
    assert second.parts[0].begin_ns == NOW + 45 * MS


def test_a_failed_operation_ends_though_others_never_posted_it() -> None:
    (one,) = watch(
        [at(0, 0, 4), at(0, 1, 4)],
        [at(20, 0, 5, waits(5, 5)), at(20, 1, 4)],
        [at(40, 0, 5, waits(5, 5, "failed")), at(40, 1, 4)],
        to_the_end=False,
    )
    assert [part.state for part in one.parts] == ["failed"]


def test_a_job_that_vanishes_leaves_its_operations_open() -> None:
    (one,) = watch([at(0, 0, 4)], [at(20, 0, 5, waits(5, 5))], [])
    assert one.parts[0].state == "in_flight" and one.parts[0].end_ns == NOW + 20 * MS


@pytest.mark.parametrize("state", ["running", "done"])
def test_a_collective_is_given_once(state: str) -> None:
    """Also where a rank's record comes into sight after all others had theirs."""
    found = watch(
        [at(0, 0, 4), at(0, 1, 4)],
        [at(20, 0, 5, waits(5, 5, "done")), at(20, 1, 5)],
        [at(40, 0, 5, waits(5, 5, "done")), at(40, 1, 5, waits(5, 30, state))],
        [at(60, 0, 5, waits(5, 5, "done")), at(60, 1, 5, waits(5, 30, "done"))],
    )
    assert [one.name.sequence for one in found] == [5]


def test_ids_are_what_the_documentation_says() -> None:
    name = Name("job", 0, 0, 5)
    text = b"shoal\0job\x000\x000\x005"
    assert name.trace_id == hashlib.sha256(text).digest()[:16]
    assert name.root_id == hashlib.sha256(text + b"\0root").digest()[:8]
    assert name.rank_id(3) == hashlib.sha256(text + b"\0rank\x003").digest()[:8]


def test_ids_agree_between_ranks_that_are_looked_at_apart() -> None:
    """As by recorders on two hosts: one trace, one parent, a span for each rank, one root."""
    requests = []
    for rank in (0, 1):
        collectives = watch(
            [at(0, rank, 4)],
            [at(20, rank, 5, waits(5, 5 + rank))],
            [at(40, rank, 5, waits(5, 5 + rank, "done"))],
        )
        requests.append(Spans(0, lambda pid, name: "").request(collectives))
    spans = [span for request in requests for span in _spans(request)]
    assert len({span.trace_id for span in spans}) == 1
    roots = [span for span in spans if not span.parent_span_id]
    assert len(roots) == 1
    parts = [span for span in spans if span.parent_span_id]
    assert {span.parent_span_id for span in parts} == {roots[0].span_id}
    assert len({span.span_id for span in spans}) == 3


def _spans(request: dict[str, object]) -> list[Span]:
    """As opentelemetry-proto reads them. OTLP/JSON has ids in hex where protobuf has base64."""
    text = json.loads(json.dumps(request))
    for resource in text["resourceSpans"]:
        for span in resource["scopeSpans"][0]["spans"]:
            for holder in (span, *span.get("links", ())):
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in holder:
                        holder[key] = base64.b64encode(bytes.fromhex(holder[key])).decode()
    parsed = json_format.ParseDict(text, ExportTraceServiceRequest())
    return [span for resource in parsed.resource_spans
            for scope in resource.scope_spans for span in scope.spans]  # fmt: skip


def _value(span: Span, key: str) -> object:
    value = next(one.value for one in span.attributes if one.key == key)
    return getattr(value, value.WhichOneof("value"))


def test_otlp_is_what_the_protocol_says() -> None:
    spans = _spans(Spans(7, lambda pid, name: "").request(late_second_rank()))
    root = next(span for span in spans if not span.parent_span_id)
    waited, late = (span for span in spans if span.parent_span_id)
    assert len(root.trace_id) == 16 and len(root.span_id) == 8
    assert root.name == "all_reduce" and root.kind == Span.SPAN_KIND_INTERNAL
    for span in (waited, late):
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    assert waited.start_time_unix_nano == NOW + 5 * MS + 7
    assert _value(waited, "shoal.sequence") == 5 and _value(waited, "shoal.bytes") == 4000
    assert _value(waited, "shoal.end_uncertainty_ns") == 20 * MS
    assert _value(waited, "shoal.awaited_rank") == 1 and _value(waited, "shoal.waited") is True
    assert _value(late, "shoal.rank") == 1 and _value(late, "shoal.waited") is False


def test_a_program_with_a_traceparent_is_linked() -> None:
    environment = {(100, "TRACEPARENT"): TRACEPARENT, (100, "TRACESTATE"): "vendor=1"}
    spans = Spans(0, lambda pid, name: environment.get((pid, name), ""))
    waited, late = (s for s in _spans(spans.request(late_second_rank())) if s.parent_span_id)
    (link,) = waited.links
    assert link.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert link.span_id.hex() == "00f067aa0ba902b7" and link.trace_state == "vendor=1"
    assert not late.links, "pid 101 was started without"


@pytest.mark.parametrize("text", [
    "", "00-abc", TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
    TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16), "ff" + TRACEPARENT[2:], TRACEPARENT + "x",
])  # fmt: skip
def test_what_is_no_traceparent_is_no_link(text: str) -> None:
    assert parse_traceparent(text) is None


def test_otlp_file_has_a_request_a_line_and_the_verdict(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "spans.jsonl"
    otlp = Otlp(str(path))
    (one,) = late_second_rank()
    otlp.collectives([one])
    otlp.verdict(VERDICT, one.name)
    otlp.close()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    (verdict,) = _spans(second)
    assert verdict.trace_id == _spans(first)[0].trace_id
    assert verdict.parent_span_id == one.name.root_id
    assert verdict.name == "verdict sleeping" and _value(verdict, "shoal.rank") == 1
    assert verdict.end_time_unix_nano - verdict.start_time_unix_nano == 300 * MS


class _Receiver(http.server.BaseHTTPRequestHandler):
    got: list[tuple[str, dict[str, str], bytes]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, dict(self.headers), body))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[type[_Receiver], str]]:
    class Receiver(_Receiver):
        got = []

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Receiver, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_collector_is_sent_spans(
    receiver: tuple[type[_Receiver], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = receiver
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    otlp = Otlp(url)
    otlp.collectives(late_second_rank())
    otlp.close()
    ((path, headers, body),) = handler.got
    assert path == "/v1/traces"
    assert headers["Content-Type"] == "application/json"
    assert headers["authorization".title()] == "Bearer abc"
    assert len(_spans(json.loads(body))) == 3


def test_a_collector_that_refuses_or_is_away_is_a_warning(
    receiver: tuple[type[_Receiver], str], capsys: pytest.CaptureFixture[str]
) -> None:
    handler, url = receiver
    handler.status = 503
    for where in (url, "http://127.0.0.1:9"):
        collector = Collector(where)
        collector.send({"resourceSpans": []})
        collector.close()
        assert collector.lost == 1
        said = capsys.readouterr().err
        assert "warning: no spans to " + where in said
        assert "1 requests did not reach" in said


def test_a_collector_that_never_answers_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(otlp_module, "POST_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts nobody
        collector = Collector(f"http://127.0.0.1:{server.getsockname()[1]}")
        begin = time.monotonic()
        for _ in range(otlp_module.MAX_WAITING + 10):
            collector.send({"resourceSpans": []})
        assert time.monotonic() - begin < 0.5
        collector.close()
        assert time.monotonic() - begin < 5
    assert collector.lost >= 10
    assert "it does not keep up" in capsys.readouterr().err


def _slices(trace: Trace) -> dict[int, list[tuple[int, int, str]]]:
    """By track: begin, end, name. Fails if a track's slices do not nest."""
    found: dict[int, list[tuple[int, int, str]]] = {}
    events = [packet for packet in trace.packet if packet.HasField("track_event")]
    began: dict[int, list[tuple[int, str]]] = {}
    for packet in sorted(events, key=lambda packet: packet.timestamp):  # as trace_processor does
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            began.setdefault(event.track_uuid, []).append((packet.timestamp, event.name))
        elif event.type == TrackEvent.TYPE_SLICE_END:
            begin, name = began[event.track_uuid].pop()
            found.setdefault(event.track_uuid, []).append((begin, packet.timestamp, name))
    return found


def test_perfetto_reads_it_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.perfetto"
    perfetto = Perfetto(str(path))
    (one,) = late_second_rank()
    for t_ms, completed in ((0, 0), (200, 100)):
        perfetto.pages([at(t_ms, 0, 4, completed=completed, bytes=completed * 1000)])
    perfetto.collectives([one])
    perfetto.verdict(VERDICT, one.name)
    perfetto.close()

    trace = Trace.FromString(path.read_bytes())
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet
              if p.HasField("track_descriptor")}  # fmt: skip
    names = {uuid: _path(tracks, uuid) for uuid in tracks}
    slices = {names[uuid]: found for uuid, found in _slices(trace).items()}
    first, second = "job job/rank 0 (here, pid 100)", "job job/rank 1 (here, pid 101)"
    assert slices[f"{first}/communicator 0"] == [(NOW + 5 * MS, NOW + 40 * MS, "all_reduce")]
    ((begin, end, name),) = slices[f"{second}/communicator 0"]
    assert (begin, end, name) == (NOW + 20 * MS, NOW + 40 * MS, "all_reduce (came last)")

    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    counters = {names[e.track_uuid]: e.double_counter_value for e in events
                if e.type == TrackEvent.TYPE_COUNTER}  # fmt: skip
    assert counters == {f"{first}/operations/s": 500, f"{first}/bytes/s": 500_000}
    (verdict,) = (e for e in events if e.type == TrackEvent.TYPE_INSTANT)
    assert verdict.name == "verdict: sleeping" and names[verdict.track_uuid] == second
    notes = {note.name: note for note in verdict.debug_annotations}
    assert notes["evidence"].string_value == "in clock_nanosleep\nrank 1 has posted #4"
    flows = [list(e.flow_ids) for e in events if e.flow_ids]
    assert len(flows) == 3 and all(flow == flows[0] for flow in flows), "joined by one flow"
    clocks = {c.clock_id for p in trace.packet for c in p.clock_snapshot.clocks}
    assert {p.timestamp_clock_id for p in trace.packet if p.HasField("track_event")} <= clocks


def _path(tracks: dict[int, TrackDescriptor], uuid: int) -> str:
    parent = tracks[uuid].parent_uuid
    return f"{_path(tracks, parent)}/{tracks[uuid].name}" if parent else tracks[uuid].name


def test_overlapping_operations_get_tracks_of_their_own(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.perfetto"
    perfetto = Perfetto(str(path))
    for sequence, begin, end in ((1, 0, 20), (2, 10, 30), (3, 25, 40), (4, 26, 27)):
        part = Part(0, "here", 100, begin, end, 0, 0, "done")
        perfetto.collectives([Collective(Name("job", 0, 0, sequence), str(sequence), 2, True,
                                         (part,))])  # fmt: skip
    perfetto.close()
    slices = _slices(Trace.FromString(path.read_bytes()))
    assert sorted(sorted(found) for found in slices.values()) == [
        [(0, 20, "1"), (25, 40, "3")], [(10, 30, "2")], [(26, 27, "4")],
    ]  # fmt: skip


def test_a_running_job_is_recorded_and_computes_the_same(
    running_job: RunningJob, tmp_path: pathlib.Path
) -> None:
    trace, lines = tmp_path / "trace.perfetto", tmp_path / "spans.jsonl"
    done = shoal("trace", "--no-kernel", "--seconds", "3", "--after-ms", "10", "--job",
                 running_job.job, "--record", str(trace), "--otlp", str(lines))  # fmt: skip
    assert "recorded" in done.stderr, done.stderr
    results = loops_of(running_job.end())
    assert len(results) == 1 and results.pop()[0] == 0, "every sum was right, on all ranks alike"

    spans = [span for line in lines.read_text().splitlines() for span in _spans(json.loads(line))]
    parts = [span for span in spans if span.name in ("all_reduce", "broadcast")]
    roots = {span.trace_id: span for span in parts if not span.parent_span_id}
    assert len(roots) > 10, "one for each collective that was seen"
    assert len({span.span_id for span in parts}) == len(parts), "none is written twice"
    for span in parts:
        root = roots[span.trace_id]
        assert span.parent_span_id in (b"", root.span_id)
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        if span.parent_span_id:
            assert span.links[0].trace_id.hex() == TRACEPARENT.split("-")[1]
    waits = [span for span in parts if span.parent_span_id and span.name == "all_reduce"
             and _value(span, "shoal.waited")]  # fmt: skip
    assert any(_value(span, "shoal.awaited_rank") == 1 for span in waits
               if _value(span, "shoal.rank") != 1), "rank 1 is the late one"  # fmt: skip
    assert _slices(Trace.FromString(trace.read_bytes()))


def test_what_cannot_be_written_is_said(tmp_path: pathlib.Path) -> None:
    for option in ("--record", "--otlp"):
        done = shoal("trace", "--no-kernel", "--seconds", "1", option, str(tmp_path / "no/file"))
        assert done.returncode == 2
        assert "No such file or directory" in done.stderr
