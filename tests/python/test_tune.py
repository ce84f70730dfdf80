"""`shoal tune`, and jobs that choose by what it has written. Between two hosts: in one there is
nothing to choose."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import Runner, TwoHosts

from shoal import _core

HEAD = "shoal-tuning 1; date 2026-03-01; hosts a, b; network TCP\n"
# What nobody would choose by rule, for 4 ranks on 2 nodes, up to 64 KiB.
ODD = HEAD + "all_reduce 4 2 65536 ring 12.34 rabenseifner 15.1\n"


def tune(*words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher, sys.executable, "-m", "shoal.cli", "tune", *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def tune_two(hosts: TwoHosts, *words: str) -> subprocess.CompletedProcess[str]:
    return tune(*hosts.options(2), *words, launcher=hosts.launcher)


def test_what_was_measured_is_what_jobs_choose(
    job: Runner, two_hosts: TwoHosts, tmp_path: pathlib.Path
) -> None:
    table = tmp_path / "table"
    done = tune_two(two_hosts, "--ops", "all_reduce,scatter,barrier", "--sizes", "1K,64K",
                    "--rounds", "2", "--output", str(table))  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in table.read_text().splitlines() if line[0] not in "#s"]
    # A scatter has one algorithm between nodes: there is nothing to measure.
    assert [row[:4] for row in rows] == [
        ["barrier", "4", "2", "0"],
        ["all_reduce", "4", "2", "1024"],
        ["all_reduce", "4", "2", "65536"],
    ]
    best = rows[2][4]
    assert f"written: {table} (3 rows)" in done.stdout and "*" in done.stdout, done.stdout

    source = """
        import sys
        # Only rank 0's file counts, wherever the others may look.
        mine = sys.argv[1] if os.environ["SHOAL_RANK"] == "0" else "/missing"
        comm = shoal.init(timeout=30, tuning=mine)
        said = comm.explain("all_reduce", nbytes=65536)
        assert f": {sys.argv[2]} (measured by `shoal tune` on 20" in said, said
        assert comm.explain("all_reduce", 16384) == said
        assert "next best" in said and "up to 65536 bytes, 4 ranks, 2 a node" in said, said
        assert "measured" not in comm.explain("all_reduce", nbytes=65540)
        assert "measured" not in comm.explain("broadcast", 1)
        # A half of the ranks has another shape: the nearest that was measured answers.
        pair = comm.split(comm.rank % 2)
        assert "measured" not in pair.explain("all_reduce", 1), "one rank a node"
        x = comm.empty(16384, "float32")
        x[:] = comm.rank
        assert (comm.all_reduce(x) == 6).all()
        print("agreed", said)
    """
    result = job(source, launcher=two_hosts.launcher, options=two_hosts.options(2),
                 arguments=(str(table), best))  # fmt: skip
    said = {result.lines(rank)[0].split("; between nodes:")[0] for rank in range(4)}
    assert len(said) == 1 and said.pop().startswith("agreed"), result.out


def test_a_second_run_adds_to_the_table(two_hosts: TwoHosts, tmp_path: pathlib.Path) -> None:
    table = tmp_path / "table"
    table.write_text(
        ODD + "all_reduce 8 2 65536 ring 1 ordered 2\nbarrier 4 2 0 dissemination 1 - -\n"
    )
    words = ("--ops", "barrier", "--rounds", "1", "--output", str(table))
    assert tune_two(two_hosts, *words).returncode == 0
    text = table.read_text()
    assert text.startswith("shoal-tuning 1; date 2026-03-01; hosts a, b; network TCP\n")
    assert "all_reduce 4 2 65536 ring" in text and "all_reduce 8 2 65536 ring" in text
    assert text.count("barrier") == 1 and "barrier 4 2 0 dissemination 1.00 - -" not in text
    assert tune_two(two_hosts, *words, "--fresh").returncode == 0
    assert "all_reduce" not in table.read_text()


def test_a_row_beats_the_rules_but_not_deterministic(
    job: Runner, two_hosts: TwoHosts, tmp_path: pathlib.Path
) -> None:
    table = tmp_path / "table"
    table.write_text(ODD)
    source = """
        comm = shoal.init(timeout=30)
        said = comm.explain("all_reduce", 100)
        assert ": ring (measured by `shoal tune` on 2026-03-01: 12.3 us, next best " in said, said
        assert "rabenseifner 15.1 us" in said, said
        assert ": ordered (det" in comm.explain("all_reduce", 100, deterministic=True)
        for deterministic in (False, True):
            x = np.arange(100) + comm.rank
            comm.all_reduce(x, deterministic=deterministic)
            assert (x == 4 * np.arange(100) + 6).all()
        print("right")
    """
    options = (*two_hosts.options(2), "--env", f"SHOAL_TUNING_FILE={table}")
    result = job(source, launcher=two_hosts.launcher, options=options)
    assert result.out.count("right") == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "all_reduce 4 2 64 rign 1 - -\n", 'table:2: algorithm "rign" is not known'),
        (HEAD + "broadcast 4 2 64 ring 1 - -\n", "table:2: broadcast has no algorithm"),
        (None, "there is no such file"),
    ],
)
def test_a_wrong_table_is_an_error_of_all_ranks(
    job: Runner, two_hosts: TwoHosts, tmp_path: pathlib.Path, text: str | None, says: str
) -> None:
    table = tmp_path / "table"
    if text is not None:
        table.write_text(text)
    source = """
        import sys
        try:
            shoal.init(timeout=30, tuning=sys.argv[1])
        except shoal.InvalidArgument as error:
            print("refused:", error)
    """
    result = job(source, launcher=two_hosts.launcher, options=two_hosts.options(1),
                 arguments=(str(table),))  # fmt: skip
    for rank in range(2):
        assert says in result.lines(rank)[0], result.out
        assert result.lines(rank)[0].startswith("refused: init: tuning table"), result.out


FORCED = """
    comm = shoal.init(timeout=60, tuning="none")
    P, me = comm.size, comm.rank

    def inputs(count, rank):
        return (np.arange(count) * (rank + 1) + rank).astype("int64")

    def check(op, count):
        x, every = inputs(count, me), [inputs(count, r) for r in range(P)]
        wide, wides = inputs(count * P, me), [inputs(count * P, r) for r in range(P)]
        mine = slice(count * me, count * (me + 1))
        root = P - 1
        if op == "barrier":
            comm.barrier()
        elif op == "broadcast":
            assert (comm.broadcast(x, root=root) == every[root]).all()
        elif op == "reduce":
            out = comm.reduce(x, root=root)
            assert me != root or (out == sum(every)).all()
        elif op == "all_reduce":
            assert (comm.all_reduce(x) == sum(every)).all()
        elif op == "all_gather":
            assert (comm.all_gather(x) == np.concatenate(every)).all()
        elif op == "reduce_scatter":
            assert (comm.reduce_scatter(wide) == sum(wides)[mine]).all()
        elif op == "all_to_all":
            assert (comm.all_to_all(wide) == np.concatenate([w[mine] for w in wides])).all()
        elif op == "gather":
            out = comm.gather(x, root=root)
            assert me != root or (out == np.concatenate(every)).all()
        else:
            out = comm.scatter(wide if me == root else None, root=root, out=np.empty_like(x))
            assert (out == wides[root][mine]).all()

    tried = 0
    ops = ["barrier", "broadcast", "reduce", "all_reduce", "all_gather", "reduce_scatter",
           "all_to_all", "gather", "scatter"]
    for _ in range(2):  # the second time by the plans of the first
        for op in ops:
            for algorithm in [*comm._algorithms(op), None]:
                comm._use_algorithm(op, algorithm)
                for count in (0, 1, P + 1, 1000, 100_000):
                    if algorithm is not None:
                        assert comm._algorithm(op, count) == algorithm
                    check(op, count)
                tried += 1
    try:
        comm._use_algorithm("all_reduce", "direct")
    except shoal.InvalidArgument as error:
        assert "cannot run on these ranks; can: ring, " in str(error), error
    print("tried", tried)
"""


@pytest.mark.parametrize("ranks", [(2, 2), (2, 1), (1, 1)])
def test_results_are_right_under_every_algorithm(
    job: Runner, two_hosts: TwoHosts, ranks: tuple[int, int]
) -> None:
    hosts = f"{two_hosts.a}:{ranks[0]},{two_hosts.b}:{ranks[1]}"
    options = ("--hosts", hosts, *two_hosts.options(1)[2:])
    result = job(FORCED, limit_s=100, launcher=two_hosts.launcher, options=options)
    # Each collective, each of its algorithms between nodes, and once no algorithm; twice. TCP has
    # nothing one-sided.
    between = [
        e
        for e in _core.catalog()
        if e["algorithm"] not in ("direct", "staged", "hierarchical_staged", "ring_put")
    ]
    flat = [e for e in between if e["algorithm"] != "hierarchical"]
    expected = 2 * (len(between if ranks == (2, 2) else flat) + 9)
    assert result.out.count(f"tried {expected}\n") == sum(ranks), result.out


def test_in_one_node_there_is_nothing_to_choose(job: Runner, tmp_path: pathlib.Path) -> None:
    table = tmp_path / "table"
    done = tune("-n", "2", "--output", str(table))
    assert done.returncode == 0 and "nothing to choose" in done.stdout, done
    assert not table.exists()
    # Nor is a table read there: it costs a job of one node nothing.
    table.write_text("malformed")
    source = """
        import sys
        comm = shoal.init(tuning=sys.argv[1])
        assert "direct (one node" in comm.explain("all_reduce", nbytes=1000)
        assert comm.explain("all_reduce", nbytes=1000) == comm.explain("all_reduce", 250)
        assert "count 62," in comm.explain("all_gather", nbytes=500), "a rank's block"
        assert comm.explain("barrier").startswith("barrier: direct")
        for both_or_none in ({}, {"count": 1, "nbytes": 4}):
            try:
                comm.explain("all_reduce", **both_or_none)
                print("accepted")
            except ValueError as error:
                assert "either count" in str(error)
        print("direct")
    """
    assert job(source, 2, arguments=(str(table),)).out.count("direct") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give either -n N or --hosts"),
        (("-n", "2", "--ops", "all_redcue"), "'all_redcue' is not a collective; known are"),
        (("-n", "2", "--ops", "barrier,,"), "with commas between them"),
        (("-n", "2", "--sizes", "1K,2X"), "'2X' is not a number of bytes"),
        (("-n", "2", "--sizes", "0"), "'0' is not a number of bytes"),
        (("-n", "2", "--sizes", "9999G"), "'9999G' is not a number of bytes"),
        (("-n", "2", "--rounds", "0"), "--rounds 0: at least one"),
        (("-n", "2", "--minutes", "-1"), "--minutes -1: give a positive"),
        (("-n", "2", "--minutes", "nan"), "--minutes nan: give a positive"),
        (("-n", "2", "--output", "/"), "/: is a directory"),
        (("-n", "2", "--output", "/missing/table"), "/missing is no directory"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    words: tuple[str, ...], says: str
) -> None:
    done = tune(*words)
    assert done.returncode == 2 and says in done.stderr, done
    assert done.stderr.startswith("shoal tune: ") and len(done.stderr.splitlines()) == 1, done


def test_a_malformed_table_is_not_added_to(tmp_path: pathlib.Path) -> None:
    table = tmp_path / "table"
    table.write_text(HEAD + "all_reduce 4 2\n")
    done = tune("-n", "2", "--output", str(table))
    assert done.returncode == 2 and f"{table}:2: has 3 words" in done.stderr, done
    assert "--fresh" in done.stderr and table.read_text() == HEAD + "all_reduce 4 2\n"


def test_ctrl_c_leaves_the_table_as_it_was(two_hosts: TwoHosts, tmp_path: pathlib.Path) -> None:
    table = tmp_path / "table"
    table.write_text(ODD)
    process = subprocess.Popen(
        [*two_hosts.launcher, sys.executable, "-m", "shoal.cli", "tune", *two_hosts.options(1),
         "--rounds", "1000000", "--ops", "all_reduce", "--sizes", "64", "--output", str(table)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode not in (0, None), (first, out, err)
    assert "interrupted by SIGINT" in first + err and "nothing was written" in err, (first, err)
    assert table.read_text() == ODD and list(tmp_path.iterdir()) == [table]


def test_the_minutes_end_it_with_what_was_measured(
    two_hosts: TwoHosts, tmp_path: pathlib.Path
) -> None:
    table = tmp_path / "table"
    began = time.monotonic()
    done = tune_two(two_hosts, "--ops", "all_reduce", "--sizes", "64", "--rounds", "1000000",
                    "--minutes", "0.05", "--output", str(table))  # fmt: skip
    assert done.returncode == 0 and time.monotonic() - began < 60, done.stderr
    assert table.read_text().count("\nall_reduce ") == 1, done.stderr
