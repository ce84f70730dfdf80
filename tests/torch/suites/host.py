"""Runs tests of one suite at one world size with one backend, each on ranks forked from here.

Importing torch and the suite takes 4 to 5 s on 2 cores; a test takes 0.3 s without it. So this
process imports them once and forks every rank, where torch's own runner spawns them. To be safe to
fork it stays as it was after the imports: one thread (checked before every test), no process group,
no GPU, no backend; a backend other than gloo is imported in the ranks.

    python -m tests.torch.suites.host --suite distributed --backend gloo --world-size 2 \
        --results FILE

writes its plan, the start and the result of each test to FILE (results.py). Started again with the
same FILE it goes on with what has no result.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import re
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

from tests.torch.suites import catalog, results, sources

# Time for faulthandler to write the stacks of a test at its limit, before its ranks are ended.
DUMP_S = 2.0
LOG_CHARACTERS = 20_000  # of a rank's log that a result keeps: the last ones
ENDED_BY_US = (-signal.SIGTERM, -signal.SIGKILL)
PR_SET_PDEATHSIG = 1


class ForkedRanks:
    """Leftmost base of every test class: ranks are forked, have a log, and end with the test.

    The rest is torch's MultiProcessTestCase, to whose methods these belong.
    """

    limit_s: float
    log_folder: Path
    plugin: str  # module that registers the backend, or ""
    processes: list[Any]
    timed_out = False

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        if not self.processes:
            self._spawn_processes()

    def _spawn_processes(self) -> None:
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise RuntimeError(f"{threads} threads in the process that forks ranks; must be 1")
        context = importlib.import_module("torch.multiprocessing").get_context("fork")
        self._start_processes(context.Process)  # type: ignore[attr-defined]

    @classmethod
    def _run(cls, rank: int, test_name: str, file_name: str, pipe: Any, **others: Any) -> None:
        _become_rank(cls.log_folder / f"{rank}.log", cls.limit_s)
        if cls.plugin:
            importlib.import_module(cls.plugin)
        super()._run(rank, test_name, file_name, pipe, **others)  # type: ignore[misc]

    def _get_timedout_process_traceback(self) -> None:
        """Called at the time limit, before ranks are terminated. Their stacks come on their own:
        torch would ask a thread of theirs for them, which a rank that hangs in C++ may not run."""
        self.timed_out = True
        time.sleep(DUMP_S)

    def _check_return_codes(self, fn: Any, elapsed_time: float) -> None:
        super()._check_return_codes(fn, elapsed_time)  # type: ignore[misc]
        # torch looks at rank 0 only; a crash elsewhere would pass.
        codes = {rank: process.exitcode for rank, process in enumerate(self.processes)}
        crashed = {rank: code for rank, code in codes.items() if code is not None and code < 0}
        if crashed and fn not in self.skip_return_code_checks:  # type: ignore[attr-defined]
            raise RuntimeError(f"ranks ended by signals: exit codes {crashed}")

    def tearDown(self) -> None:
        processes = self.processes
        super().tearDown()  # type: ignore[misc]
        for process in processes:
            process.join(2)
            if process.exitcode is None:
                process.kill()
                process.join()
            _end_group(process.pid)


def _become_rank(log: Path, limit_s: float) -> None:
    """First thing in a forked rank: a log, stacks at the limit, and no life after the host's."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)  # so that what a rank starts can be ended with it
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable(file)
    faulthandler.dump_traceback_later(limit_s, file=file)
    # Says at level INFO why a rank skips.
    logging.getLogger(sources.INTERNAL + "common_distributed").addHandler(logging.StreamHandler())


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def run_one(cls: Any, name: str) -> results.Result:
    """Runs one test on its ranks."""
    case, outcome = cls(name), unittest.TestResult()
    for old in cls.log_folder.iterdir():
        old.unlink()
    start = time.monotonic()
    case.run(outcome)
    result = results.Result(f"{cls.__name__}.{name}", results.PASSED)
    result.seconds = round(time.monotonic() - start, 2)
    problems = [text for _, text in (*outcome.errors, *outcome.failures)]
    logs = {path.stem: path.read_text(errors="replace") for path in cls.log_folder.iterdir()}
    if problems or outcome.unexpectedSuccesses:
        result.outcome = results.FAILED
        result.reason = why_failed(case.timed_out, cls.limit_s, "\n".join(problems), logs)
        parts = [f"--- rank {rank}\n{log[-LOG_CHARACTERS:]}" for rank, log in sorted(logs.items())]
        result.log = "\n".join([*problems, *parts])
    elif outcome.skipped:
        result.outcome = results.SKIPPED
        result.reason = why_skipped(outcome.skipped[0][1], logs)
    return result


# The last line of a traceback: the exception's type, perhaps with its modules, and its message; of
# torch's comparisons the line with the numbers too.
_EXCEPTION = re.compile(
    r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Timeout)\b.*)(?:\n\n(Expected .*))?",
    re.M,
)
# What torch's harness says about exit codes, where a rank may have said more.
_HARNESS = re.compile(r".*Expected exit code|RuntimeError: Process \d", re.S)


def why_failed(timed_out: bool, limit_s: float, problem: str, logs: dict[str, str]) -> str:
    """One line: that it hung, or the first exception of a rank."""
    texts = [problem, *(log for _, log in sorted(logs.items()))]
    found = [" ".join(lines) for text in texts for lines in _EXCEPTION.findall(text)]
    ours = [error.strip() for error in found if not _HARNESS.match(error)]
    if timed_out:
        where = [
            f"rank {rank} in {top}" for rank, log in sorted(logs.items()) if (top := _top(log))
        ]
        stuck = f"no end after {limit_s:.0f} s: {'; '.join(where) or 'no rank wrote stacks'}"
        return "; after ".join([stuck, *ours[:1]])
    return (ours or found or [problem.strip().splitlines()[-1]])[0][:300]


def _top(log: str) -> str:
    """The innermost Python frame of the thread that faulthandler found a test in, or ""."""
    stacks = log.rpartition("Timeout (")[2].split("\n\n")
    for stack in stacks:
        frames = re.findall(r'File "[^"]*?([^/"]+)", line (\d+) in (\w+)', stack)
        if any(name.startswith("test_") for _, _, name in frames):
            file, line, function = frames[0]
            return f"{file}:{line} {function}"
    return ""


def why_skipped(reason: str, logs: dict[str, str]) -> str:
    """The reason; where torch only says to look at the log, the one found there."""
    found = re.search(r"skipping test \S+ for following reason: (.*)", logs.get("0", ""))
    return found[1] if found and "subprocess log" in reason else reason


def prepare(suite: catalog.Suite, backend: str) -> None:
    """Imports what ranks will need, and leaves torch's limits to this program."""
    sources.install(backend, suite.lift_mpi)
    common: Any = importlib.import_module(sources.INTERNAL + "common_distributed")
    common.get_timeout = lambda _: ForkedRanks.limit_s  # in place of 300 s and more


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", required=True, choices=catalog.SUITES)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--plugin", default="", help="module that registers the backend")
    parser.add_argument("--world-size", required=True)
    parser.add_argument("--results", required=True, type=Path)
    parser.add_argument("--logs", required=True, type=Path, help="folder for logs of ranks")
    parser.add_argument("--limit-s", type=float, default=60)
    parser.add_argument("--deadline", type=float, default=float("inf"), help="no starts after it")
    parser.add_argument("-k", dest="patterns", action="append", default=[])
    parser.add_argument("--shard", type=int, nargs=2, default=(1, 1))
    parser.add_argument("--sample", action="store_true")
    options = parser.parse_args()

    meeting = Path(tempfile.mkdtemp()) / "meeting"  # of a test that makes its group anew
    os.environ.update(
        BACKEND=options.backend, WORLD_SIZE=options.world_size, INIT_METHOD=f"file://{meeting}"
    )
    suite = catalog.SUITES[options.suite]
    ForkedRanks.limit_s = options.limit_s
    ForkedRanks.log_folder = options.logs
    ForkedRanks.plugin = options.plugin
    prepare(suite, options.backend)
    classes = {
        name: type(name, (ForkedRanks, *bases), {}) for name, bases in suite.classes().items()
    }
    for cls in classes.values():
        cls.setUpClass()  # type: ignore[attr-defined]
    progress = results.read(options.results)
    with options.results.open("a") as file:
        if progress.plan is None:
            chosen = catalog.Selection.read(options.patterns, options.shard, options.sample)
            progress.plan = chosen.choose(catalog.names(suite, classes))
            results.write(file, "plan", progress.plan)
        for test in progress.left:
            if time.time() > options.deadline:
                break
            results.write(file, "start", test)
            class_name, name = test.split(".")
            results.write_result(file, run_one(classes[class_name], name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
