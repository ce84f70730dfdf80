"""Checks on ranks that share a GPU, each with a time limit of its own.

A program of checks calls main(): it starts itself again, once for each rank, with the variables
that torchrun sets, and gives the ranks one check after the other. A rank says how each went; what
it prints goes into a file, whose end is shown after a failure. One line a check:

    ok|FAILED|skipped NAME: what

After a failure, and where a check ends its job (`ends_job`), the next one gets new ranks: what one
check leaves behind is nothing to another. No check and no rank outlives the limits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

RANKS = 2
START_S = 60.0  # until the ranks have loaded what they need and met: torch's files may be cold
CHECK_S = 20.0
FAILED_S = 3.0  # what the others have, when one rank has failed
TAIL_LINES = 25


class Skip(Exception):
    """A check cannot be made here; says why. On all ranks alike."""


@dataclass(frozen=True)
class Check:
    """`run` returns what is worth saying, or None; it raises what is wrong."""

    run: Callable[[], str | None]
    ends_job: bool = False  # it kills a rank, or leaves the process group ended
    dies: tuple[int, ...] = ()  # ranks that are killed in it
    limit_s: float = CHECK_S

    @property
    def name(self) -> str:
        return self.run.__name__


# --- what checks share


def raises(kind: type[Exception], call: Callable[[], object], *words: str) -> None:
    """It raises an error of that kind, which says all of the words."""
    try:
        call()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"no error that says {words}")


def cycles_of(torch: Any, ms: float) -> int:
    """For torch.cuda._sleep()."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(1000)
    begin.record()
    torch.cuda._sleep(10_000_000)
    end.record()
    end.synchronize()
    return int(ms / begin.elapsed_time(end) * 10_000_000)


def at_once(begin: float, delay_ms: float) -> None:
    """What has been called since has not waited for a stream that is so late."""
    took_ms = 1000 * (time.monotonic() - begin)
    assert took_ms < delay_ms / 2, f"the host waited {took_ms:.0f} ms"


# --- a job of checks


class Job:
    """Processes of one job, from their start to their end."""

    def __init__(self, command: list[str], folder: pathlib.Path) -> None:
        self.files = [folder / f"rank-{rank}.txt" for rank in range(RANKS)]
        self.answers: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
        for rank, file in enumerate(self.files):
            mine, theirs = os.pipe()
            with file.open("wb") as output:
                process = subprocess.Popen(
                    [*command, f"--answers={theirs}"],
                    stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                    pass_fds=[theirs], start_new_session=True,
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                )  # fmt: skip
            os.close(theirs)
            self.answers.append(mine)
            self.processes.append(process)

    def ask(self, name: str, limit_s: float) -> list[str]:
        """What each rank answers; "gone" of one that has ended, "late" of one that does not."""
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{name}\n".encode())
                process.stdin.flush()
        return self.hear(limit_s)

    def hear(self, limit_s: float) -> list[str]:
        """Not long after one has failed: the others are in a call that it will not make."""
        end = time.monotonic() + limit_s
        said = [b""] * RANKS
        with selectors.DefaultSelector() as selector:
            for rank, answers in enumerate(self.answers):
                selector.register(answers, selectors.EVENT_READ, rank)
            while selector.get_map() and time.monotonic() < end:
                for key, _ in selector.select(max(end - time.monotonic(), 0)):
                    part = os.read(key.fd, 4096)
                    said[key.data] += part if part else b"gone\n"
                    if said[key.data].endswith(b"\n"):
                        selector.unregister(key.fd)
                    if said[key.data].startswith(b"FAILED"):
                        end = min(end, time.monotonic() + FAILED_S)
        return [text.decode().strip() if text.endswith(b"\n") else "late" for text in said]

    def show_stacks(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)  # faulthandler's: see serve()
        time.sleep(0.5)

    def tails(self) -> str:
        parts = []
        for rank, file in enumerate(self.files):
            lines = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            parts += [f"    rank {rank} (exit {self.processes[rank].poll()}):"]
            parts += [f"    | {line}" for line in lines]
        return "\n".join(parts)

    def end(self, patience_s: float = 10) -> None:
        """Ranks that have nothing left to do are given a moment to leave in order."""
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        leave_by = time.monotonic() + patience_s
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(leave_by - time.monotonic(), 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        for answers in self.answers:
            os.close(answers)


def free_port() -> int:
    """The next one is free too, most likely: shoal's store takes it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(checks: Sequence[Check], start: Callable[[], str | None], limit_s: float) -> int:
    """Of a program of checks. `start` makes on each rank what all checks share."""
    answers = [argument for argument in sys.argv[1:] if argument.startswith("--answers=")]
    if answers:
        return serve(checks, start, int(answers[0].partition("=")[2]))
    names = sys.argv[1:]
    chosen = [check for check in checks if not names or check.name in names]
    return run(chosen, time.monotonic() + limit_s)


def serve(checks: Sequence[Check], start: Callable[[], str | None], answers: int) -> int:
    """A rank: makes the checks whose names come on stdin."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    by_name = {check.name: check.run for check in checks}

    def answer(text: str) -> None:
        os.write(answers, (text.replace("\n", " ")[:1000] + "\n").encode())

    def attempt(what: Callable[[], str | None]) -> None:
        try:
            answer(f"ok {what() or ''}".strip())
        except Skip as why:
            answer(f"skipped {why}")
        except BaseException as error:
            traceback.print_exc()
            sys.stderr.flush()
            answer(f"FAILED {type(error).__name__}: {error}")

    attempt(start)
    for line in sys.stdin:
        print(f"--- {line.strip()}", flush=True)
        attempt(by_name[line.strip()])
    return 0


def run(checks: Sequence[Check], end: float) -> int:
    """The parent. 0 if nothing has failed."""
    command = [sys.executable, sys.argv[0]]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="shoal-gpu-") as folder:
        job: Job | None = None
        for check in checks:
            left_s = end - time.monotonic()
            if left_s < 1:
                report("FAILED", check, "not made: the program's time is over")
                failed += 1
                continue
            if job is None:
                job = Job(command, pathlib.Path(tempfile.mkdtemp(dir=folder)))
                said = job.hear(min(START_S, left_s))
                if said != ["ok"] * RANKS:
                    fail(job, check, f"the ranks have not started: {told(said)}")
                    job, failed = None, failed + 1
                    continue
            began = time.monotonic()
            said = job.ask(check.name, min(check.limit_s, max(end - began, 1)))
            if not is_good(check, said):
                fail(job, check, told(said))
                job, failed = None, failed + 1
                continue
            outcome, _, what = said[0].partition(" ")
            report(outcome, check, f"{what} ({time.monotonic() - began:.1f} s)".strip())
            if check.ends_job:
                job.end()
                job = None
        if job is not None:
            job.end()
    return 1 if failed else 0


def is_good(check: Check, said: list[str]) -> bool:
    """Those that are to die have; of the others, all have made it, or all have passed it over."""
    survivors = [text for rank, text in enumerate(said) if rank not in check.dies]
    outcomes = {text.partition(" ")[0] for text in survivors}
    return all(said[rank] == "gone" for rank in check.dies) and outcomes in ({"ok"}, {"skipped"})


def told(said: list[str]) -> str:
    return "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(said))


def fail(job: Job, check: Check, what: str) -> None:
    """Says all that is known, and ends the job."""
    if "late" in what:
        job.show_stacks()
    report("FAILED", check, f"{what}\n{job.tails()}")
    job.end(patience_s=0.1)


def report(outcome: str, check: Check, what: str) -> None:
    print(f"{outcome} {check.name}: {what}", flush=True)
