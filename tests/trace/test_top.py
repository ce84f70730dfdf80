"""`shoal top`: rows from two readings, the table, and the command beside a running job."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import subprocess
import sys
import time

import pytest
from rich.console import Console

from shoal.pages import Page
from shoal.trace.spans import Collective, Name, Part
from shoal.trace.top import Row, cells, late_now, lateness_of, make_rows, render
from tests.trace.conftest import RunningJob, shoal
from tests.trace.made_up import MS, NOW, operation, page, transfer


def read(t_ms: int, rank: int, **changes: object) -> Page:
    one = page(rank, 5, None, ranks=2, completed=5)
    return dataclasses.replace(one, read_ns=NOW + t_ms * MS, **changes)  # type: ignore[arg-type]


def rows(before: list[Page], after: list[Page], **worst: float) -> list[Row]:
    late = {("job", int(name[1:])): one for name, one in worst.items()}
    return make_rows(before, after, late, lambda page: "running")


def test_rates_are_of_the_time_between_two_readings() -> None:
    before = [read(0, 0, completed=100, bytes=1000, staged_bytes=50)]
    after = [read(500, 0, completed=150, bytes=5_001_000, staged_bytes=1050)]
    (row,) = rows(before, after)
    assert (row.operations_per_s, row.bytes_per_s, row.staged_bytes_per_s) == (100, 10e6, 2000)
    assert cells(row)[10:13] == ("100", "10.0 MB/s", "2.00 kB/s")


def test_a_rank_that_is_new_or_another_process_has_no_rates() -> None:
    (row,) = rows([read(0, 0, pid=7, completed=900)], [read(500, 0, completed=3)])
    assert row.operations_per_s == 0 and cells(row)[10] == "-"


def test_what_is_waited_for_is_shown() -> None:
    waits = operation(5, 1, begin_ns=NOW - 20 * MS, block_bytes=4096, collective="all_gather",
                      in_blocks=True)  # fmt: skip
    (row,) = rows([], [read(0, 0, operations=(waits,))])
    assert (row.operation, row.sequence, row.bytes) == ("all_gather", 5, 8192)
    assert (row.awaited_rank, row.age_ms, row.state) == (1, 20, "running")
    assert cells(row)[5:10] == ("all_gather #5 (8.00 KiB)", "running", "3", "1", "20.0 ms")


def test_a_receive_is_shown() -> None:
    (row,) = rows([], [read(0, 0, transfers=(transfer("recv", 1),))])
    assert cells(row)[5:10] == ("recv tag 7 (4.00 KiB)", "waits", "0", "1", "500.0 ms")


def test_of_an_operation_that_had_not_to_wait_only_the_number_is_known() -> None:
    earlier = operation(3, 1, state="done")
    (row,) = rows([], [read(0, 0, operations=(earlier,))])
    assert (row.operation, row.sequence, row.bytes) == ("", 5, 0)
    assert cells(row)[5] == "#5"


def test_who_has_not_posted_what_others_wait_for_is_late_now() -> None:
    waits = operation(5, 1, begin_ns=NOW - 30 * MS)
    after = [read(0, 0, operations=(waits,)), page(1, 4, None, ranks=2)]
    assert late_now(after) == {("job", 1): 30}
    first, second = rows([], after, r0=2.5, r1=8)
    assert first.late_ms == 2.5 and not first.is_late
    assert second.late_ms == 30 and second.is_late
    assert cells(first)[-1] == "2.5 ms" and cells(second)[-1] == "30.0 ms now"
    _, second = rows([], after, r1=45)
    assert second.late_ms == 45 and second.is_late, "the most since the last refresh"


def test_lateness_is_the_most_after_the_first_of_the_communicator() -> None:
    def part(rank: int, begin_ms: int) -> Part:
        return Part(rank, "here", 100, begin_ms * MS, begin_ms * MS + 1, 0, 0, "done")

    name = Name("job", 0, 0, 5)
    assert lateness_of([
        Collective(name, "barrier", 2, True, (part(0, 10), part(1, 13))),
        Collective(dataclasses.replace(name, sequence=6), "barrier", 2, True,
                   (part(0, 22), part(1, 20))),
    ]) == {("job", 0): 2, ("job", 1): 3}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [
    (0, "-"), (999, "999 B/s"), (1000, "1.00 kB/s"), (12_345_678, "12.3 MB/s"),
    (5.7e9, "5.70 GB/s"), (4.2e15, "4200 TB/s"),
])  # fmt: skip
def test_rates_have_three_digits(value: float, text: str) -> None:
    (row,) = rows([read(0, 0)], [read(1000, 0, bytes=int(value))])
    assert cells(row)[11] == text


def printed(some: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=180)
    console.print(render(some, 180))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_each_job_has_a_table() -> None:
    text = printed(rows([], [read(0, 0), read(0, 1), read(0, 0, job="other[red]", host="[b]")]))
    assert "job job: 2 of 2 ranks are here" in text
    assert "job other[red]: 1 of 2 ranks" in text, "a name is not markup"
    assert "  [b]  " in text
    assert text.count("rank  host") == 2
    assert "no shoal jobs" in printed([])


def test_a_narrow_terminal_shows_fewer_columns_and_those_whole() -> None:
    waits = operation(5, 1, begin_ns=NOW - 20 * MS, block_bytes=4096)
    some = rows([read(-1000, 0, bytes=0)], [read(0, 0, operations=(waits,), bytes=10**9)],
                r0=25.5)  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    console.print(render(some, 80))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and "host" not in text
    assert "all_reduce #5 (4.00 KiB)" in text and "1.00 GB/s" in text and "25.5 ms" in text


def test_a_low_terminal_shows_who_is_stopped_and_who_is_late() -> None:
    ranks = [read(0, rank) for rank in range(20)]
    late = {("job", 7): 5, ("job", 11): 80, ("job", 12): 9}
    some = make_rows([], ranks, late, lambda p: "stopped" if p.rank == 18 else "running")
    console = Console(file=io.StringIO(), width=180)
    console.print(render(some, 180, height=6))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines[2:5]] == ["11", "12", "18"]
    assert "and 17 ranks" in lines[5] and len(lines) == 6


def test_top_once_beside_a_running_job(running_job: RunningJob) -> None:
    done = shoal("top", "--once", "--job", running_job.job)
    assert done.returncode == 0, done.stderr
    for pid in running_job.pids:
        (line,) = (line for line in done.stdout.splitlines() if f" {pid} " in line)
        assert " running " in line and "B/s" in line, done.stdout


def test_top_finds_the_late_rank_and_counts_what_the_job_does(running_job: RunningJob) -> None:
    done = shoal("top", "--once", "--json", "--interval", "2", "--job", running_job.job)
    assert done.returncode == 0, done.stderr
    found = sorted((json.loads(line) for line in done.stdout.splitlines()),
                   key=lambda row: row["rank"])  # fmt: skip
    assert [row["pid"] for row in found] == running_job.pids
    late = [row["late_ms"] or 0 for row in found]
    # It sleeps 100 ms. On a crowded machine one of the others is later now and then, not both.
    assert late[1] > 50 and late[1] > min(late), found
    for row in found:
        # An all_reduce of 64 KiB and a broadcast of 4 bytes a loop.
        assert row["operations_per_s"] > 2
        each = row["bytes_per_s"] / row["operations_per_s"]
        assert each == pytest.approx((65536 + 4) / 2, rel=0.2), row


def test_top_in_a_terminal_ends_at_q(running_job: RunningJob) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal.cli", "top", "--interval", "0.2"],
        stdin=slave, stdout=slave, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    shown, until = b"", time.monotonic() + 20
    while b"pid" not in shown and time.monotonic() < until:
        shown += os.read(master, 65536)
    os.write(master, b"q")
    assert process.wait(timeout=20) == 0
    shown += os.read(master, 65536)
    os.close(master)
    assert b"\x1b[?1049h" in shown and b"\x1b[?1049l" in shown, "the terminal is as it was"


def test_without_rich_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['rich'] = None\n"
        "from shoal.cli import main\n"
        "sys.exit(main(['top', '--once', '--interval', '0.1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "shoal top: this needs the package rich: pip install 'shoal[trace]'" in done.stderr
