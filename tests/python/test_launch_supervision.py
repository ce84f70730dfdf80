"""The launcher's promises when things go wrong: nobody is left behind, and every wait ends."""

from __future__ import annotations

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from shoal.launch import job, network, oom, output, remote

SHOAL = (sys.executable, "-m", "shoal.cli", "run")
# A rank whose work is done by a child, as under a shell script. Prints the child's pid.
PARENT = "sleep 60 & echo $!; wait; true"


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SHOAL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def first_words(process: subprocess.Popen[str], lines: int) -> list[str]:
    """The last word of each of the first lines: "[1] 4711" -> "4711"."""
    assert process.stdout is not None
    return [process.stdout.readline().split()[-1] for _ in range(lines)]


def gone(pid: int, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_grandchildren_end_with_the_launcher(number: int) -> None:
    process = start("-n", "2", "--grace", "1", "bash", "-c", PARENT)
    children = [int(word) for word in first_words(process, 2)]
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert all(gone(child) for child in children)


def test_grandchildren_end_when_another_rank_fails() -> None:
    script = f"[ $SHOAL_RANK = 1 ] && exit 4; {PARENT}"
    process = start("-n", "2", "--grace", "1", "bash", "-c", script)
    (child,) = first_words(process, 1)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4 and "rank 1" in err
    assert gone(int(child))


def test_ranks_that_ignore_an_interrupt_are_killed_after_the_grace_time() -> None:
    script = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done"
    process = start("-n", "2", "--grace", "0.5", "bash", "-c", script)
    assert first_words(process, 2) == ["ready", "ready"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGKILL


def test_the_time_limit_names_who_was_still_running() -> None:
    script = "[ $SHOAL_RANK = 0 ] || sleep 60"
    process = start("-n", "3", "--timeout", "1.5", "--grace", "1", "bash", "-c", script)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 124 and "still running: ranks 1, 2" in err


def test_a_reader_that_leaves_ends_the_job() -> None:
    process = start("-n", "2", "yes")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 128 + signal.SIGPIPE


def test_stop_and_continue_reach_the_ranks() -> None:
    process = start("-n", "1", "--tag-output", "bash", "-c", "echo $$; sleep 60; true")
    (rank,) = map(int, first_words(process, 1))

    def state(pid: int) -> str:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def becomes(letters: str) -> bool:
        end = time.monotonic() + 5
        while time.monotonic() < end and not (
            state(rank) in letters and state(process.pid) in letters
        ):
            time.sleep(0.02)
        return state(rank) in letters and state(process.pid) in letters

    process.send_signal(signal.SIGTSTP)
    assert becomes("T")
    process.send_signal(signal.SIGCONT)
    assert becomes("RS")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)


def test_standard_input_goes_to_rank_0() -> None:
    done = subprocess.run(
        [*SHOAL, "-n", "2", "cat"], input="data\n", capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[0] data\n"


@pytest.mark.parametrize("own", [{}, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}])
def test_streams_have_queues_of_their_own_unless_the_user_says_otherwise(
    own: dict[str, str],
) -> None:
    done = subprocess.run(
        [*SHOAL, "-n", "1", "sh", "-c", "echo $CUDA_DEVICE_MAX_CONNECTIONS"],
        env={**os.environ, **own}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.split()[-1] == own.get("CUDA_DEVICE_MAX_CONNECTIONS", "32")


def test_a_long_line_costs_linear_time() -> None:
    source = "import sys; sys.stdout.write('x' * 5_000_000)"
    begin = time.monotonic()
    done = subprocess.run(
        [*SHOAL, "-n", "2", sys.executable, "-c", source], capture_output=True, timeout=60
    )
    assert done.stdout.count(b"x") == 10_000_000
    assert time.monotonic() - begin < 20  # byte by byte it took a minute


def console(prefix: output.Prefix = output.numbered) -> tuple[output.Console, io.BytesIO]:
    sink = io.BytesIO()
    return output.Console(prefix, sink, sink), sink


def test_lines_are_whole_and_a_log_shows_a_progress_bar_once() -> None:
    screen, sink = console()
    screen.write(1, "stdout", b"half ")
    screen.write(0, "stdout", b"one\ntwo\n")
    screen.write(1, "stdout", b"a line\n")
    for percent in (10, 50, 100):
        screen.write(2, "stderr", b"\r%3d%%" % percent)
    screen.write(2, "stderr", b"\n")
    screen.write(3, "stdout", b"no end")
    screen.finish(3)
    assert sink.getvalue() == b"[0] one\n[0] two\n[1] half a line\n[2] 100%\n[3] no end\n"


def test_a_line_without_end_is_bounded() -> None:
    screen, sink = console(output.bare)
    screen.write(0, "stdout", b"x" * (3 * output.MAX_LINE_BYTES + 1))
    assert len(sink.getvalue()) == 3 * output.MAX_LINE_BYTES + 3


def test_an_out_of_memory_kill_is_seen_in_either_version_of_cgroups(tmp_path: pathlib.Path) -> None:
    v1, v2 = tmp_path / "memory.oom_control", tmp_path / "memory.events"
    v1.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    v2.write_text("oom 1\noom_kill 0\noom_group_kill 0\n")
    watch = oom.OomWatch([v1, v2])
    assert not watch.killed()
    v1.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert watch.killed() and not watch.killed()
    v2.write_text("oom 1\noom_kill 1\noom_group_kill 0\n")
    assert watch.killed()


def test_hosts_are_filled_in_order() -> None:
    hosts = job.parse_hosts("a:2,b:2,c")
    assert job.place(hosts, None) == [("a", [0, 1]), ("b", [2, 3]), ("c", [4])]
    assert job.place(hosts, 3) == [("a", [0, 1]), ("b", [2])]
    with pytest.raises(job.UsageError, match="room for 5"):
        job.place(hosts, 6)
    for wrong in ("a:0", "a:x", ":2", "a:1,a:1", "-oProxyCommand=x:1"):
        with pytest.raises(job.UsageError, match="--hosts"):
            job.parse_hosts(wrong)


def test_cores_are_shared_out_and_every_core_is_used() -> None:
    assert [job.cores_of(r, 3, range(8)) for r in range(3)] == [{0, 1}, {2, 3, 4}, {5, 6, 7}]
    assert job.cores_of(0, 4, {0, 1}) is None


def test_no_identity_of_an_outer_job_is_passed_on() -> None:
    outer = {
        "SHOAL_RANK": "3",
        "SHOAL_SECRET": "s",
        "SHOAL_LOG": "info",
        "PYTHONPATH": "/p",
        "A": "b",
    }
    assert job.forwarded_environment(outer, ["A"]) == {
        "SHOAL_LOG": "info", "PYTHONPATH": "/p", "A": "b",
    }  # fmt: skip
    assert "SHOAL_RANK" not in job.own_environment(outer)


def test_the_default_route_with_the_lowest_metric_counts() -> None:
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    route = "{}\t{}\t0101A8C0\t0003\t0\t0\t{}\t{}\t0\t0\t0\n"
    table = head + route.format("wlan0", "00000000", 600, "00000000")
    table += route.format("eth0", "00000000", 100, "00000000")
    table += route.format("eth1", "0000A8C0", 0, "00FFFFFF")
    assert network.default_interface(table) == "eth0"
    assert network.default_interface(head) is None


def test_the_agent_command_names_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    words = remote.agent_command(remote.DEFAULT_AGENT, "node7", "/usr/bin/python3")
    assert words == ["ssh", "-o", "BatchMode=yes", "node7", "/usr/bin/python3", "-m",
                     "shoal.launch.agent"]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", "/opt/shoal")
    assert "PYTHONPATH=/opt/shoal" in remote.agent_command("in {host}", "a", "python3")


def test_an_unreachable_host_is_a_failure_with_the_agents_words() -> None:
    agent = "bash -c 'echo no route to {host} >&2; exit 255'"
    process = start("--hosts", "far:2", "--address", "127.0.0.1", "--agent", agent, "true")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "lost host far" in err and "no route to far" in err
