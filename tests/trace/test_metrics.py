"""Prometheus metrics, made of made-up pages and scraped beside a running job."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.trace.cgroups import Cgroup
from shoal.trace.kernel import Sample, parse_sample
from shoal.trace.metrics import Metrics, parse_address
from tests.trace.conftest import RunningJob, loops_of
from tests.trace.made_up import MS, NOW, operation, page, transfer
from tests.trace.test_record import VERDICT

Samples = dict[tuple[str, str, str], float]


def scrape(port: int) -> Samples:
    """(name, rank or control group, the label that only this one has) -> value."""
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = dict(one.labels)
            of = labels.pop("rank", None) or labels.pop("cgroup")
            other = next(
                (labels[key] for key in ("cause", "communicator", "of") if key in labels), ""
            )
            found[(one.name, of, other)] = one.value
    return found


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    served = Metrics(("127.0.0.1", 0))
    yield served
    served.close()


def test_what_pages_show_is_served(metrics: Metrics) -> None:
    waits = operation(5, 1, begin_ns=NOW - 250 * MS)
    metrics.pages([
        page(0, 5, waits, completed=4, failed=1, bytes=4096, staged_bytes=77),
        page(1, 3, transfer("recv", 0), completed=3),
    ])  # fmt: skip
    metrics.verdict(VERDICT, None)
    metrics.verdict(VERDICT, None)
    got = scrape(metrics.port)
    assert got[("shoal_operations_posted_total", "0", "")] == 5
    assert got[("shoal_operations_completed_total", "0", "")] == 4
    assert got[("shoal_operations_failed_total", "0", "")] == 1
    assert got[("shoal_payload_bytes_total", "0", "")] == 4096
    assert got[("shoal_staged_bytes_total", "0", "")] == 77
    assert got[("shoal_heartbeat_age_seconds", "0", "")] == pytest.approx(0.05)
    assert got[("shoal_operation_age_seconds", "0", "")] == pytest.approx(0.25)
    assert got[("shoal_operation_age_seconds", "1", "")] == pytest.approx(0.5)
    assert got[("shoal_sequence_lag", "0", "0")] == 0
    assert got[("shoal_sequence_lag", "1", "0")] == 2
    assert got[("shoal_verdicts_total", "1", "sleeping")] == 2


class Counting:
    """Stands for a shoal-tracer with --cgroups."""

    def sample(self) -> Sample:
        carried = [
            {"sends": n, "sent_bytes": 100 * n, "receives": 2 * n, "received_bytes": 7 * n}
            for n in (23, 5)
        ]
        group = {"path": "/jobs/a", "pids": [100], "ranks": carried[0], "others": carried[1],
                 "on_cpu_ns": 2e9, "waiting_ns": 3e9, "off_cpu_ns": 4e9}  # fmt: skip
        return parse_sample({"t_ns": 1, "cgroups": [group]})


def test_what_control_groups_use_is_served(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.pages([page(0, 5, None)])
    metrics.kernel = Counting()  # type: ignore[assignment]
    held = Cgroup("/jobs", "cpu", False, 1_500_000, 9, 20_000, 100_000)
    monkeypatch.setattr("shoal.trace.cgroups.read_cgroups", lambda pid: (held,))
    got = scrape(metrics.port)
    assert got[("shoal_cgroup_tcp_sends_total", "/jobs/a", "ranks")] == 23
    assert got[("shoal_cgroup_tcp_sent_bytes_total", "/jobs/a", "ranks")] == 2300
    assert got[("shoal_cgroup_tcp_receives_total", "/jobs/a", "others")] == 10
    assert got[("shoal_cgroup_tcp_received_bytes_total", "/jobs/a", "others")] == 35
    assert got[("shoal_cgroup_on_cpu_seconds_total", "/jobs/a", "")] == 2
    assert got[("shoal_cgroup_waiting_seconds_total", "/jobs/a", "")] == 3
    assert got[("shoal_cgroup_off_cpu_seconds_total", "/jobs/a", "")] == 4
    assert got[("shoal_cgroup_throttled_seconds_total", "/jobs", "")] == 1.5


def test_addresses() -> None:
    assert parse_address("9100") == ("127.0.0.1", 9100)
    assert parse_address("0.0.0.0:9100") == ("0.0.0.0", 9100)
    assert parse_address("[::1]:9100") == ("::1", 9100)
    for wrong in ("", "host", "host:", "1:70000", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="PORT"):
            parse_address(wrong)


def test_a_running_job_is_scraped_and_computes_the_same(running_job: RunningJob) -> None:
    tracer = subprocess.Popen(
        [sys.executable, "-m", "shoal.cli", "trace", "--no-kernel", "--prometheus", "0", "--job",
         running_job.job, "--after-ms", "10", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tracer.stderr is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", tracer.stderr.readline())
    assert found is not None
    try:
        time.sleep(1.0)
        first = scrape(int(found[1]))
        time.sleep(1.0)
        second = scrape(int(found[1]))
    finally:
        tracer.terminate()
        tracer.communicate(timeout=20)
    for rank in ("0", "1", "2"):
        name = ("shoal_operations_completed_total", rank, "")
        assert second[name] > first[name] > 0
        assert second[("shoal_heartbeat_age_seconds", rank, "")] < 1
    results = loops_of(running_job.end())
    assert len(results) == 1 and results.pop()[0] == 0, "every sum was right, on all ranks alike"
