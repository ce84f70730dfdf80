"""The benchmark suite, in a form so small that it says nothing about speed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from shoal.bench import measure
from shoal.bench.cells import NETWORK_FLOORS, Cell, bus_factor, parse_size, size_text
from shoal.bench.document import write
from shoal.bench.libraries import Direct, Library, Line, Placement, Process
from shoal.bench.measure import Contender, Effort, Result
from shoal.bench.network import Hosts
from shoal.bench.rows import Floor, Report, rows_of
from shoal.bench.session import LibraryFailed, Session
from shoal.bench.stream import floor_us
from shoal.bench.table import summary
from shoal.bench.workshop import DRIVERS, Workshop

BENCH = (sys.executable, "-m", "shoal.cli", "bench")
PLACEMENT = Placement(2, tuple(sorted(os.sched_getaffinity(0))))
ALL_REDUCE = Cell("all_reduce", 4096)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Drivers are compiled once for all tests here."""
    return Workshop(tmp_path_factory.mktemp("bench"), print)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_run_gives_rows_floors_and_a_report(workshop: Workshop, tmp_path: pathlib.Path) -> None:
    everything, rows_file, report = (tmp_path / name for name in ("a.json", "b.json", "c.md"))
    done = bench(
        "--ranks", "2", "--ops", "barrier,all_reduce,all_gather", "--sizes", "8,64Ki",
        "--libraries", "shoal", "--rounds", "2", "--directory", str(workshop.directory),
        "--json", str(everything), "--rows", str(rows_file), "--report", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(rows_file.read_text())
    assert [(row["op"], row["bytes"], row["buffer"]) for row in rows] == [
        ("barrier", 0, "none"),
        *(
            (op, size, buffer)
            for op in ("all_reduce", "all_gather")
            for size in (8, 64 << 10)
            for buffer in ("pool", "ordinary")
        ),
    ]
    for row in rows:
        assert row["ranks"] == 2 and row["shoal_us"] > 0 and row["direct_us"] > 0
        assert row["peer_us"] == {} and row["best_peer"] is None and row["failed"] == {}
        assert 2 <= row["rounds"] + row["rounds_left_out"] <= 4
    whole = json.loads(everything.read_text())
    assert whole["rows"] == rows and whole["notes"] == []
    assert {floor["floor"] for floor in whole["floors"]} == {"ping_pong", "copy", "add"}
    assert "**pool** over direct" in report.read_text()
    assert sorted(path.suffix for path in (tmp_path / "c").iterdir()) == [".png", ".svg"]


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="makes network namespaces"
)
def test_two_hosts_are_measured_over_tcp_and_removed(
    workshop: Workshop, tmp_path: pathlib.Path
) -> None:
    everything = tmp_path / "a.json"
    done = bench(
        "--network", "2", "--ops", "all_reduce", "--sizes", "8", "--libraries", "shoal",
        "--rounds", "1", "--directory", str(workshop.directory), "--json", str(everything),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads(everything.read_text())
    assert [(row["network"], row["buffer"]) for row in whole["rows"]] == [
        ("tcp", "pool"), ("tcp", "ordinary"),
    ]  # fmt: skip
    assert {floor["floor"] for floor in whole["floors"]} == {*NETWORK_FLOORS}
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for pid in re.findall(r"shoal-bench-[ab](\d+)", left.stdout):
        assert pathlib.Path("/proc", pid).exists()  # another run's


class Fake(Library):
    """Ranks that run a few lines of Python in the place of a collective."""

    name = "fake"
    is_peer = True

    def __init__(self, folder: pathlib.Path, body: str) -> None:
        self._driver = folder / "fake.py"
        self._driver.write_text(
            textwrap.dedent(f"""
                import os, sys, time
                sys.path.insert(0, {str(DRIVERS)!r})
                from harness import Driver
                class Fake(Driver):
                    def call(self, op, source, target):
                        def body():
                            {body}
                        return body
                harness, socket, name, rank = sys.argv[1:]
                sys.exit(Fake(name, "0", int(rank), 2).serve(harness, socket))
            """)
        )

    def make(self, workshop: Workshop) -> None:
        self._harness = workshop.harness()

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        return ("private",)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        words = [sys.executable, str(self._driver), str(self._harness), str(line.socket), self.name]
        return [Process([*words, str(rank)]) for rank in range(placement.ranks)]


def run_beside_direct(workshop: Workshop, fake: Fake) -> Result:
    """One cell with the bare loops and the fake."""
    with Session(PLACEMENT, ALL_REDUCE.bytes, workshop.directory / "logs") as session:
        for library in (Direct(), fake):
            library.make(workshop)
            session.start(library)
        contenders = [
            Contender(running, running.library.buffers(PLACEMENT, ALL_REDUCE)[0])
            for running in session.running.values()
        ]
        return measure.measure(session, ALL_REDUCE, contenders, Effort(1, 1, 1.0, 0.001, 1))


def test_a_wrong_result_is_not_timed(workshop: Workshop, tmp_path: pathlib.Path) -> None:
    result = run_beside_direct(workshop, Fake(tmp_path, "target[:] = source"))
    assert "wrong result: element 0 is" in result.failed["fake/private"]
    assert list(result.times_us) == ["direct/shared"]


def test_a_library_that_hangs_is_ended(
    workshop: Workshop, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_ANSWER_SECONDS", 0.5)
    pids = tmp_path / "pids"
    body = f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'), time.sleep(100)"
    start = time.monotonic()
    result = run_beside_direct(workshop, Fake(tmp_path, body))
    assert "no answer within 0.5 s" in result.collapsed["fake/private"]
    assert time.monotonic() - start < 10
    for pid in pids.read_text().split():
        assert not pathlib.Path("/proc", pid).exists()


def test_a_library_that_dies_is_reported_with_its_last_words(
    workshop: Workshop, tmp_path: pathlib.Path
) -> None:
    fake = Fake(tmp_path, "os.write(2, b'so long'), os._exit(1)")
    result = run_beside_direct(workshop, fake)
    assert "a rank is gone; its last words: so long" in result.failed["fake/private"]


def test_a_library_that_does_not_start_is_named(workshop: Workshop, tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path, "pass")
    fake.make(workshop)
    (tmp_path / "fake.py").write_text("raise SystemExit('not today')")
    with (
        Session(PLACEMENT, ALL_REDUCE.bytes, workshop.directory / "logs") as session,
        pytest.raises(LibraryFailed, match="ended with code 1 before it began.*not today"),
    ):
        session.start(fake)


def result_of(calibration_ns: list[float], **times_us: list[float]) -> Result:
    """One iteration a round; names with _ for /."""
    times = {name.replace("_", "/"): [[us] for us in rounds] for name, rounds in times_us.items()}
    return Result(Cell("all_reduce", 1 << 20), calibration_ns=calibration_ns, times_us=times)


def test_ratios_are_taken_within_rounds_of_one_regime() -> None:
    result = result_of(
        [100, 100, 400, 110],
        shoal_pool=[10, 20, 99, 40],
        shoal_ordinary=[40, 80, 99, 160],
        a_private=[20, 40, 1, 80],
        a_window=[10, 20, 1, 40],
        direct_shared=[5, 10, 1, 20],
    )
    pool, ordinary = rows_of(result, PLACEMENT, {"a"})
    assert (pool.rounds, pool.rounds_left_out) == (3, 1)
    assert (pool.best_peer, pool.to_best_peer, pool.to_direct) == ("a/window", 1, 2)
    assert (ordinary.best_peer, ordinary.to_best_peer) == ("a/private", 2)
    assert pool.shoal_us == 20 and pool.shoal_p99_us == 40
    assert summary([pool, ordinary]) == [
        "pool: no peer is faster in 1 of 1 cells; "
        "the worst is all_reduce of 1 MiB on 2 ranks, 1.00 times a/window",
        "ordinary: no peer is faster in 0 of 1 cells; "
        "the worst is all_reduce of 1 MiB on 2 ranks, 2.00 times a/private",
    ]


def test_two_rounds_of_different_regimes_leave_one() -> None:
    result = result_of([100, 200], shoal_pool=[1, 2], direct_shared=[1, 1])
    assert result.rounds_counted() == [0]


def test_rounds_in_which_the_regime_changed_do_not_count() -> None:
    result = result_of([100, 100, 200], shoal_pool=[1, 2, 3], direct_shared=[1, 1, 1])
    result.unsteady = {0, 1}
    assert result.rounds_counted() == [2]
    [row] = rows_of(result, PLACEMENT, set())
    assert (row.rounds, row.rounds_left_out, row.calibration_ns) == (1, 2, 200)
    result.unsteady = {0, 1, 2}  # there is nothing better
    assert result.rounds_counted() == [0, 1]


def test_what_must_cross_a_network_bounds_an_operation(tmp_path: pathlib.Path) -> None:
    mib = 1 << 20
    two_hosts = Placement(4, (0, 1), Hosts(("a", "b"), ("", ""), "", tmp_path))
    times = {"tcp_stream": 100, "tcp_ping_pong": 80, "add": 10}  # us a MiB
    floors = [
        Floor(name, False, "tcp", 4, size, us * size / mib, 0)
        for name, us in times.items()
        for size in (mib // 4, 16 * mib)
    ]

    def floor(op: str, size: int) -> float | None:
        result = Result(Cell(op, size), calibration_ns=[50], times_us={"shoal/pool": [[1.0]]})
        [row] = rows_of(result, two_hosts, set())
        return floor_us(row, floors)

    assert floor("all_reduce", 4 * mib) == pytest.approx(2 * 100 + 10)
    assert floor("reduce_scatter", 4 * mib) == pytest.approx(100 + 10)
    assert floor("all_gather", 4 * mib) == pytest.approx(100)
    assert floor("all_to_all", 4 * mib) == pytest.approx(2 * 100)
    assert floor("broadcast", 4 * mib) == pytest.approx(4 * 80)
    assert floor("all_reduce", mib // 2) is None


def test_a_report_of_nothing_is_a_report(tmp_path: pathlib.Path) -> None:
    write(Report({"kernel": "6"}), tmp_path / "empty.md")
    assert "| kernel | 6 |" in (tmp_path / "empty.md").read_text()


def test_sizes_and_bandwidths() -> None:
    assert [parse_size(text) for text in ("8", "16Ki", "1Mi")] == [8, 16384, 1 << 20]
    assert [size_text(size) for size in (8, 1000, 16384)] == ["8 B", "1000 B", "16 KiB"]
    assert bus_factor("all_reduce", 4) == 1.5 and bus_factor("all_gather", 4) == 0.75


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ops", "all_redcue"], "no such 'all_redcue'; there are barrier,"),
        (["--sizes", "1K"], "'1K' is not a size; write for example 8, 16Ki or 1Mi"),
        (["--sizes", "6"], "multiples of 4 bytes"),
        (["--ranks", "1"], "'1' is not a number of ranks from 2 to"),
        (["--network", "3"], "give an even number"),
        (["--libraries", "lampi"], "no such 'lampi'; there are shoal,"),
        (["--rounds", "0"], "at least one is needed"),
        (["--json", "/no/such/folder/x.json"], "there is no such directory"),
    ],
)
def test_bad_arguments_say_what_to_try(arguments: list[str], text: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
