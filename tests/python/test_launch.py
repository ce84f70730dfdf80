"""The `shoal` command: run, ps, info, plan."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import Runner, TwoHosts

from shoal import _core, cli, pages
from shoal._ucx import ucx_directory
from shoal.launch.job import program_name

SHOAL = (sys.executable, "-m", "shoal.cli")


def shoal(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SHOAL, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_output_is_prefixed_and_the_report_is_complete(job: Runner) -> None:
    result = job("print('hello from', os.environ['SHOAL_RANK'])", 3)
    for rank in range(3):
        assert result.lines(rank) == [f"hello from {rank}"]
    assert result.report["ok"] is True
    assert result.report["job"].startswith("program.py-")  # the script, not "python"
    assert [rank["exit_code"] for rank in result.report["ranks"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("{script} --lr 1", "train.py"),
        ("/usr/bin/python3.11 -u {script} {other}", "train.py"),
        ("python -X dev -m lab.train {script}", "lab.train"),
        ("bash {other}", "other.sh"),
        ("python -c pass {script}", "python"),
        ("sh -c {script}", "sh"),
        ("python", "python"),
        ("mybinary {script}", "mybinary"),
    ],
)
def test_a_job_is_named_after_its_program(command: str, name: str, tmp_path: pathlib.Path) -> None:
    paths = {"script": tmp_path / "train.py", "other": tmp_path / "other.sh"}
    for path in paths.values():
        path.touch()
    assert program_name(command.format(**paths).split()) == name


def test_the_first_failure_is_named_and_its_code_returned(job: Runner) -> None:
    source = """
        import sys, time
        if os.environ["SHOAL_RANK"] == "1":
            sys.exit(7)
        time.sleep(30)
    """
    start = time.monotonic()
    result = job(source, 3, expect=7)
    assert time.monotonic() - start < 20
    assert "rank 1" in result.err and "exited with code 7" in result.err
    assert result.report["first_failure"]["rank"] == 1
    assert result.report["ranks"][0]["signal"] == "SIGTERM"


def test_the_secret_is_in_no_command_line_and_no_environment(job: Runner) -> None:
    source = """
        fd = int(os.environ["SHOAL_SECRET_FD"])
        secret = os.pread(fd, 4096, 0)
        assert len(secret) == 64
        ppid = os.getppid()
        for name in ("cmdline", "environ"):
            for pid in (ppid, os.getpid()):
                assert secret not in open(f"/proc/{pid}/{name}", "rb").read()
        print("kept")
    """
    assert job(source, 2).out.count("kept") == 2


def test_a_rank_may_run_several_programs_one_after_the_other() -> None:
    program = "import shoal; comm = shoal.init(); comm.barrier(); print('met', comm.size)"
    line = f'"{sys.executable}" -c "{program}"'
    done = shoal("run", "-n", "2", "bash", "-c", f"{line} && {line}")
    assert done.returncode == 0 and done.stdout.count("met 2") == 4, done.stdout + done.stderr


def test_signals_reach_the_ranks() -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
        "print('ready', flush=True); time.sleep(30)"
    )
    process = subprocess.Popen(
        [*SHOAL, "run", "-n", "2", sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(2):
        assert "ready" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 3


def test_bad_command_lines_say_what_to_try() -> None:
    for arguments, words in (
        (("run", "true"), "give either -n"),
        (("run", "-n", "0", "true"), "at least one rank"),
        (("run", "-n", "2"), "no program given"),
        (("run", "--hosts", "a:x", "true"), "HOST:RANKS"),
    ):
        done = shoal(*arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr
    done = shoal("run", "-n", "2", "/no/such/program")
    assert done.returncode != 0 and "cannot start" in done.stderr


def test_an_unreachable_host_is_named() -> None:
    done = shoal(
        "run", "--hosts", "nowhere:1", "--agent", "false {host}", "--address", "127.0.0.1", "true"
    )
    assert done.returncode == 1 and "lost host nowhere" in done.stderr, done.stderr


def test_plan_prints_listings_and_lists_what_it_knows() -> None:
    listing = shoal("plan", "all_reduce", "--ranks", "8", "--algorithm", "ring").stdout
    assert "send" in listing and "rank 7" in listing
    assert "rabenseifner" in shoal("plan", "--list").stdout
    wrong = shoal("plan", "all_reduce", "--algorithm", "star")
    assert wrong.returncode == 2 and "recursive_doubling" in wrong.stderr


def test_info_says_which_ucx() -> None:
    info = json.loads(shoal("info", "--json").stdout)
    assert info["version"] == _core.__version__
    assert info["ucx"]["reason"]
    assert info["network"].startswith(("tcp (", "ucx ("))
    if info["ucx"]["found"]:
        assert "tcp" in info["ucx"]["transports"]
    assert "UCX" in shoal("info").stdout


def test_the_wheels_ucx_is_not_asked_for_where_rdma_devices_are(tmp_path: pathlib.Path) -> None:
    assert ucx_directory(tmp_path) == ucx_directory(tmp_path / "none"), "no device"
    (tmp_path / "mlx5_0").mkdir()
    assert ucx_directory(tmp_path) == ""


def test_info_lists_every_rdma_port_of_the_kernel() -> None:
    ports = json.loads(shoal("info", "--json").stdout)["rdma_ports"]
    kernels = pathlib.Path("/sys/class/infiniband").glob("*/ports/*")
    assert sorted(f"{p['device']}:{p['port']}" for p in ports) == sorted(
        f"{p.parts[-3]}:{p.name}" for p in kernels
    )
    text = shoal("info").stdout
    assert all(port["text"] in text for port in ports)
    assert ("RDMA ports         none" in text) == (not ports)


def test_rdma_ports_are_printed_with_their_gids() -> None:
    gid = {"index": 1, "address": "10.77.0.1", "type": "RoCE v2", "netdev": "h0"}
    ports = [{"text": "rxe0:1 ACTIVE", "gids": [gid]}, {"text": "rxe1:1 DOWN", "gids": []}]
    assert cli._rdma_rows(ports) == [
        ("RDMA ports", "rxe0:1 ACTIVE"),
        ("", "  GID 1: 10.77.0.1, RoCE v2 on h0"),
        ("", "rxe1:1 DOWN"),
    ]


def test_pages_have_the_layout_of_the_compiler() -> None:
    layout = _core.abi_layout()
    assert pages.HEADER.size == layout["ArenaHeader"]
    assert layout["OperationRecord"] == pages.RECORD.size
    assert layout["TransferRecord"] == pages.TRANSFER.size
    assert layout["CommunicatorRow"] == pages.ROW.size
    assert pages.PAGE.size == layout["ProgressPage.operations"]
    assert layout["ProgressPage.transfers"] == pages.TRANSFERS_OFFSET
    assert layout["ProgressPage.communicators"] == pages.ROWS_OFFSET
    assert layout["ProgressPage.bytes"] == pages.ENDED_OFFSET
    assert layout["ProgressPage.at_once"] == pages.ENDED_OFFSET + 8
    assert layout["page_offset"] == pages.PAGE_OFFSET
    assert layout["page_operations"] == pages.OPERATIONS
    assert layout["page_transfers"] == pages.TRANSFERS
    assert layout["page_communicators"] == pages.COMMUNICATORS
    assert layout["ProgressPage.drivers"] == 20
    assert layout["ProgressPage.heartbeat_ns"] == 88 and layout["ProgressPage.posted"] == 104
    assert layout["OperationRecord.count"] == 32 and layout["OperationRecord.awaited_peer"] == 52
    for enumeration, names in (("DataType", pages.DTYPES), ("Collective", pages.COLLECTIVES)):
        values = {f"{enumeration}.{name}": i for i, name in enumerate(names)}
        assert {k: v for k, v in layout.items() if k.startswith(enumeration + ".")} == values


def test_pages_count_the_larger_buffer_of_each_collective(job: Runner) -> None:
    """Of those that are over within their call, of those that run, and of private memory."""
    source = """
        from shoal import pages

        def bytes_so_far():
            return next(p.bytes for p in pages.read_all() if p.pid == os.getpid())

        comm = shoal.init()
        small, large = comm.empty(1, "int32"), comm.empty(1 << 18, "float32")
        small[:] = large[:] = 1
        before = bytes_so_far()
        for _ in range(10):
            comm.all_reduce(small)
        for _ in range(3):
            comm.all_reduce(large)
        comm.barrier()
        comm.all_gather(small)
        comm.broadcast(np.zeros(1000))
        comm.barrier()
        print(bytes_so_far() - before)
    """
    result = job(source, ranks=2)
    for rank in range(2):
        assert result.lines(rank) == [str(10 * 4 + 3 * (4 << 18) + 2 * 4 + 8000)]


def test_ps_shows_running_and_stopped_ranks(job: Runner) -> None:
    source = """
        import signal, subprocess, sys, time, json
        comm = shoal.init(timeout=30)
        pids = comm.all_gather(np.array([os.getpid()]))
        if comm.rank == 1:
            comm.all_reduce(np.ones(100, "float32"))
            sys.exit(0)
        time.sleep(0.3)
        os.kill(int(pids[1]), signal.SIGSTOP)
        time.sleep(0.2)
        shown = subprocess.run([sys.executable, "-m", "shoal.cli", "ps", "--json"],
                               capture_output=True, text=True, check=True).stdout
        ours = {s["rank"]: s for s in json.loads(shown) if s["job"] == comm.job}
        os.kill(int(pids[1]), signal.SIGCONT)
        assert ours[0]["state"] == "running" and ours[1]["state"] == "stopped", ours
        assert ours[1]["collective"] == "all_reduce" and ours[1]["count"] == 100, ours
        assert ours[1]["awaited_peer"] == 0, ours
        comm.all_reduce(np.ones(100, "float32"))
        print("shown")
    """
    assert "shown" in job(source, 2).out


# No RDMA device here, or there would be another choice: the machine of the tests has none.
@pytest.mark.parametrize(("network", "says"), [("auto", "tcp at"), ("ucx", "ucx 1.")])
def test_two_hosts_run_one_job(job: Runner, two_hosts: TwoHosts, network: str, says: str) -> None:
    source = """
        import sys
        comm = shoal.init(timeout=30)
        assert comm.nodes == 2 and comm.size == 4
        x = comm.empty(100_000, "float32")
        x[:] = comm.rank
        assert (comm.all_reduce(x) == 6).all()
        said = comm.explain("all_reduce", 1)
        ways = "4 ranks on 2 nodes; within a node: shared memory; between nodes: " + sys.argv[1]
        print("hierarchical" in comm.explain("all_reduce", 100_000), ways in said
              and ("asked for" in said or "no RDMA device here" in said))
    """
    result = job(source, launcher=two_hosts.launcher, options=two_hosts.options(2, network),
                 arguments=(says,))  # fmt: skip
    assert result.out.count("True True") == 4, result.out


def test_a_network_that_there_is_not_is_an_error_that_says_which_there_are(
    job: Runner, two_hosts: TwoHosts
) -> None:
    source = """
        try:
            shoal.init(timeout=20, network="carrier pigeon")
        except shoal.InvalidArgument as error:
            assert "carrier pigeon" in str(error) and "auto, tcp or ucx" in str(error), error
            print("refused", flush=True)
    """
    result = job(source, launcher=two_hosts.launcher, options=two_hosts.options(1))
    assert result.out.count("refused") == 2


def test_ranks_without_a_common_network_say_who_lacks_what(
    job: Runner, two_hosts: TwoHosts
) -> None:
    source = """
        try:
            shoal.init(timeout=20, network=["ucx", "tcp"][int(os.environ["SHOAL_RANK"])])
        except shoal.TransportError as error:
            assert "rank 1 offers no UCX, rank 0 no TCP" in str(error), error
            print("refused", flush=True)
    """
    result = job(source, launcher=two_hosts.launcher, options=two_hosts.options(1))
    assert result.out.count("refused") == 2


@pytest.mark.parametrize("source", ["torchrun", "openmpi"])
def test_other_launchers_are_understood(source: str, tmp_path: os.PathLike[str]) -> None:
    names = {
        "torchrun": ("RANK", "WORLD_SIZE"),
        "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    }[source]
    program = "import shoal, numpy as np; c = shoal.init(); print(c.all_reduce(np.ones(1))[0])"
    port = str(20000 + os.getpid() % 20000)
    processes = []
    for rank in range(2):
        environment = {
            **os.environ, names[0]: str(rank), names[1]: "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "SHOAL_STORE": f"127.0.0.1:{port}",
            "SHOAL_SECRET": "for this test",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and out.strip() == "2.0"
