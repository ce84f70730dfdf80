"""Jobs of torch.distributed for tests: `launch(program, ranks=N)` runs a Python program on N ranks.

The ranks are plain processes with the variables that torch's env:// reads. A job has a time limit:
when it passes, every rank prints the stacks of all its threads (faulthandler) and ends, and the
test fails with what all of them have printed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

pytest.importorskip("torch", reason="tests of the torch backend need torch")

PROGRAMS = pathlib.Path(__file__).parent / "programs"
LIMIT_S = 120.0  # of a program of checks; they take 10 to 20 s
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "torch"

PREAMBLE = """\
import faulthandler, os
faulthandler.dump_traceback_later(float(os.environ["SHOAL_TEST_LIMIT_S"]), exit=True)
import torch, torch.distributed as dist
torch.set_num_threads(1)
RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
"""


@dataclass
class Result:
    returncodes: list[int]  # of each rank; -9: killed by signal 9
    outputs: list[str]  # stdout and stderr of each rank
    seconds: float

    def __str__(self) -> str:
        return "\n".join(
            f"--- rank {rank}: exit {code}\n{output}"
            for rank, (code, output) in enumerate(zip(self.returncodes, self.outputs, strict=True))
        )


Launcher = Callable[..., Result]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(limit_s: float, extra: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "SHOAL_TEST_LIMIT_S": str(limit_s),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(PROGRAMS), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        **extra,
    }


def run_ranks(
    command: list[str],
    directory: pathlib.Path,
    *,
    ranks: int = 2,
    limit_s: float = 60,
    expect: int | None = 0,
    variables: Mapping[str, str] | None = None,
) -> Result:
    """`expect`: what every rank has to exit with; None: the test looks at it itself."""
    shared = environment(limit_s, variables or {})
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    started = time.monotonic()
    files = [directory / f"rank-{rank}.txt" for rank in range(ranks)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank, file in enumerate(files):
            with file.open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # so that what it has started can be ended with it
                        env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    )
                )
        # A little more: each rank ends itself, with stacks, when the limit has passed.
        for process in processes:
            left = started + limit_s + 10 - time.monotonic()
            try:
                process.wait(max(left, 0.1))
            except subprocess.TimeoutExpired:
                break
    finally:
        for process in processes:
            _end(process)
    result = Result(
        [process.returncode for process in processes],
        [file.read_text(errors="replace") for file in files],
        time.monotonic() - started,
    )
    if expect is not None:
        assert result.returncodes == [expect] * ranks, str(result)
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have gone, what it started may not
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.fixture
def launch(tmp_path: pathlib.Path) -> Launcher:
    """launch(program, *arguments, ranks=2, limit_s=60, expect=0, variables=None)

    `program`: the name of a file in programs/, or the text of one, which finds torch, dist, RANK
    and SIZE there.
    """

    def run(program: str, *arguments: str, **options: object) -> Result:
        if "\n" in program:
            path = tmp_path / "program.py"
            path.write_text(PREAMBLE + textwrap.dedent(program))
        else:
            path = PROGRAMS / program
        command = [sys.executable, str(path), *arguments]
        return run_ranks(command, tmp_path, **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def torchrun(tmp_path: pathlib.Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """torchrun(*arguments, ranks=2, limit_s=60, expect=0, variables=None)"""

    def run(
        *arguments: str | pathlib.Path,
        ranks: int = 2,
        limit_s: float = 60,
        expect: int = 0,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
            "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *map(str, arguments),
        ]  # fmt: skip
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment(limit_s, variables or {}),
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit_s + 15)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun ends its workers, and then itself
                output, _ = process.communicate(timeout=45)
            assert process.returncode == expect, f"exit {process.returncode}\n{output}"
        return subprocess.CompletedProcess(command, process.returncode, output, "")

    return run


Checker = Callable[..., None]


@pytest.fixture(scope="session")
def check(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """check(program, name, ranks, variables=None): it runs once for all tests of its checks."""
    jobs: dict[tuple[str, int], Checks] = {}

    def require(
        program: str, name: str, ranks: int, variables: Mapping[str, str] | None = None
    ) -> None:
        if (program, ranks) not in jobs:
            command = [sys.executable, str(PROGRAMS / program)]
            directory = tmp_path_factory.mktemp(pathlib.Path(program).stem)
            result = run_ranks(
                command, directory, ranks=ranks, limit_s=LIMIT_S, expect=None, variables=variables
            )
            jobs[program, ranks] = Checks(program, result)
        jobs[program, ranks].require(name)

    return require


class Checks:
    """A program whose functions check_*() have been run on all ranks (programs/checks.py)."""

    def __init__(self, program: str, result: Result) -> None:
        self._result = result
        self._outcomes = [_outcomes(output) for output in result.outputs]
        self._program = program

    def require(self, name: str) -> None:
        """Fails with what the ranks on which the check failed have printed."""
        outcomes = [outcome.get(name) for outcome in self._outcomes]
        if all(outcome == "ok" for outcome in outcomes):
            return
        if any(outcome is None for outcome in outcomes):
            pytest.fail(f"{self._program} ended before {name} was over\n{self._result}")
        pass_on = [text for text in outcomes if text is not None and text.startswith("skip ")]
        if pass_on:
            pytest.skip(pass_on[0].removeprefix("skip "))
        pytest.fail(
            "\n".join(f"--- rank {rank}\n{text}" for rank, text in enumerate(outcomes)),
            pytrace=False,
        )


def _outcomes(output: str) -> dict[str, str]:
    """By check: "ok", or what it raised."""
    found: dict[str, str] = {}
    for part in output.split("\n=== ")[1:]:
        name, _, text = part.partition(": ")
        found[name] = text.splitlines()[0] if text.startswith(("ok", "skip ")) else text
    return found


def names_of_checks(program: str) -> list[str]:
    """Read from the text: importing it would need ranks."""
    lines = (PROGRAMS / program).read_text().splitlines()
    return [line[4 : line.index("(")] for line in lines if line.startswith("def check_")]
