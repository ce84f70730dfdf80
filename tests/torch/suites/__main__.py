"""Runs torch's own suites with backends, and compares what they pass with gloo.

    python -m tests.torch.suites --backend gloo --backend shoal --world-sizes 2,4

Two hosts (host.py) at a time, each for one suite, world size and backend. Exits with 1 if a backend
does not pass what gloo passes and known.toml does not list it, or if the time ran out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from tests.torch.suites import catalog, report, results
from tests.torch.suites.results import FAILED, NOT_RUN, Result, Unit

ROOT = Path(__file__).parents[3]
PLUGINS = {"gloo": "", "shoal": "shoal.torch", "mirror": "tests.torch.suites.mirror"}
IMPORT_S = 120  # for a host's imports, on a busy machine
CLEAN_UP_S = 30  # a host's own time for a test beyond the test's limit
MAX_RESTARTS = 5


class Host:
    """A process that runs a unit's tests. One that dies or stops is started again behind the test
    that did it, which has failed. One thread."""

    def __init__(
        self, unit: Unit, folder: Path, options: argparse.Namespace, deadline: float
    ) -> None:
        self.unit, self.folder, self.options, self.deadline = unit, folder, options, deadline
        self.progress = results.Progress()
        self.began = time.monotonic()
        self.seconds = 0.0
        self.restarts = 0
        (folder / "logs").mkdir(parents=True)
        (folder / "tmp").mkdir()
        self.process = self._start()

    @property
    def file(self) -> Path:
        return self.folder / "results"

    def _start(self) -> subprocess.Popen[bytes]:
        """In a folder for temporary files of its own, without GPUs unless the caller names some:
        with fewer than ranks, torch skips every test."""
        options = self.options
        command = [
            sys.executable, "-m", "tests.torch.suites.host",
            "--suite", self.unit.suite, "--backend", self.unit.backend,
            "--plugin", options.plugins[self.unit.backend],
            "--world-size", str(self.unit.world_size),
            "--results", str(self.file), "--logs", str(self.folder / "logs"),
            "--limit-s", str(options.limit_s), "--deadline", str(self.deadline),
            "--shard", *map(str, options.shard),
            *(f"-k{pattern}" for pattern in options.patterns),
            *(["--sample"] if options.sample else []),
        ]  # fmt: skip
        environment = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",  # its threads start with the import; see ForkedRanks
            "CUDA_VISIBLE_DEVICES": "",
            **os.environ,
            # An installed backend with an entry point would come with torch into every host, gloo's
            # too, before it is forked.
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "TMPDIR": str(self.folder / "tmp"),
        }
        self.heard = time.monotonic()
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def poll(self) -> bool:
        """Reads news, and ends or restarts the process where due. False when all is done."""
        before = len(self.progress.results), self.progress.started, self.progress.plan is None
        self.progress = results.read(self.file)
        now = len(self.progress.results), self.progress.started, self.progress.plan is None
        if now != before:
            self.heard = time.monotonic()
        limit = IMPORT_S if self.progress.started is None else self.options.limit_s
        if time.monotonic() - self.heard > limit + CLEAN_UP_S:
            self.stop()
        code = self.process.poll()
        if code is None:
            return True
        self.stop()
        self.progress = results.read(self.file)
        if code != 0 and self._go_on(code):
            return True
        self._close()
        return False

    def _go_on(self, code: int) -> bool:
        """After the process died: writes the failure down, and starts it again."""
        started = self.progress.started
        if self.progress.plan is None or started is None or self.restarts >= MAX_RESTARTS:
            return False
        reason = f"the process that had forked the ranks ended with {code}"
        with self.file.open("a") as file:
            results.write_result(file, Result(started, FAILED, 0, reason, self.output()))
        self.restarts += 1
        self.process = self._start()
        return True

    def _close(self) -> None:
        self.seconds = time.monotonic() - self.began
        for test in self.progress.left:
            self.progress.results[test] = Result(test, NOT_RUN, 0, "the run ended before it")

    def stop(self) -> None:
        """Ends the process; the ranks it forked end with it (PR_SET_PDEATHSIG)."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def output(self) -> str:
        path = self.folder / "output"
        return path.read_text(errors="replace")[-20_000:] if path.exists() else ""


def run(units: Iterable[Unit], folder: Path, options: argparse.Namespace) -> dict[Unit, Host]:
    """Runs all units, at most `options.jobs` at a time, within `options.minutes`."""
    deadline = time.time() + options.minutes * 60
    waiting, running, done = list(units), list[Host](), dict[Unit, Host]()
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                unit = waiting.pop(0)
                running.append(Host(unit, folder / str(unit).replace(", ", "-"), options, deadline))
            time.sleep(0.2)
            for host in list(running):
                if host.poll():
                    continue
                running.remove(host)
                done[host.unit] = host
                print(f"  {host.unit}: {host.seconds:.0f} s", file=sys.stderr, flush=True)
    finally:
        for host in running:
            host.stop()
    return done


def units(suites: Iterable[str], sizes: Iterable[int], backends: Iterable[str]) -> list[Unit]:
    """In the order they are run: backends beside each other."""
    chosen = [(name, catalog.SUITES[name]) for name in suites]
    return [
        Unit(name, size, backend)
        for name, suite in chosen
        for size in ([suite.world_size] if suite.world_size else sizes)
        for backend in backends
    ]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    def shard(word: str) -> tuple[int, int]:
        index, count = map(int, word.split("/"))
        if not 1 <= index <= count:
            raise ValueError(word)
        return index, count

    parser = argparse.ArgumentParser(
        prog="python -m tests.torch.suites",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--backend", dest="backends", action="append", metavar="NAME[=MODULE]",
        help="importing MODULE registers it; may be repeated (gloo)",
    )  # fmt: skip
    parser.add_argument("--suite", dest="suites", action="append", choices=catalog.SUITES)
    parser.add_argument("--world-sizes", default="2,4", help="where a suite leaves them open (2,4)")
    parser.add_argument(
        "-k", dest="patterns", action="append", default=[], metavar="PART",
        help="only tests whose `Class.test` contains PART; may be repeated",
    )  # fmt: skip
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N")
    parser.add_argument("--sample", action="store_true", help="the tests that sample.toml chooses")
    parser.add_argument("--minutes", type=float, default=60, help="bound of the whole run (60)")
    parser.add_argument("--limit-s", type=float, default=90, help="bound of one test (90)")
    parser.add_argument("--jobs", type=int, default=2, help="groups of ranks at a time (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all results, with logs")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="for scripts/summary.py")
    options = parser.parse_args(arguments)
    named = [word.partition("=") for word in options.backends or ["gloo"]]
    options.plugins = {name: module or PLUGINS.get(name) for name, _, module in named}
    unknown = [name for name, module in options.plugins.items() if module is None]
    if unknown:
        parser.error(f"which module registers {unknown[0]}? --backend {unknown[0]}=MODULE")
    options.sizes = [int(word) for word in options.world_sizes.split(",")]
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    chosen = units(options.suites or catalog.DEFAULT, options.sizes, options.plugins)
    with tempfile.TemporaryDirectory(prefix="suites-") as folder:
        hosts = run(chosen, Path(folder), options)
        broken = [host for host in hosts.values() if host.progress.plan is None]
        for host in broken:
            print(f"{host.unit}: no tests were listed\n{host.output()}", file=sys.stderr)
    found = {unit: host.progress.results for unit, host in hosts.items() if host.progress.results}
    known = {
        backend: report.read_known(catalog.HERE / "known.toml", backend)
        for backend in options.plugins
    }
    print(report.text(found, known, {unit: host.seconds for unit, host in hosts.items()}))
    if options.json:
        facts = {"limit_s": options.limit_s, "sample": options.sample, "shard": options.shard}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.as_json(found, known, facts), indent=1) + "\n")
    if options.junit:
        options.junit.parent.mkdir(parents=True, exist_ok=True)
        ET.ElementTree(report.junit(found, known)).write(options.junit, encoding="unicode")
    if broken or not found:
        return 2
    return report.exit_status(found, known)


if __name__ == "__main__":
    sys.exit(main())
