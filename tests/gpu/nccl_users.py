"""NCCL's users on a GPU (docs/nccl.md): torch's own NCCL over shoal's network plug-in, and torch's
nccl backend answered by shoal's libnccl.so.2. Two ranks share the GPU, each a "host" of its own by
NCCL_HOSTID, since NCCL refuses them otherwise.

Each check is a job of its own with a limit; a line `ok`, `FAILED` or `skipped` says what came of
it, and a failure shows the end of what the job and NCCL had to say. Needs PyTorch with CUDA; with
--try it asks gloo on the CPU, which shows that the program itself is right.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from shoal import _nccl

PROGRAM = str(pathlib.Path(__file__).with_name("nccl_users_program.py"))
CHECK_S, ALL_S = 40, 90
RANKS = 2
TAIL = 40  # lines
PARTS = ["collectives", "average", "messages", "streams"]


class Skipped(Exception):
    pass


class Failed(Exception):
    pass


class Job:
    """The program under `shoal run`: what it printed, and what NCCL logged."""

    def __init__(self, words: list[str], limit_s: float, *options: str, **variables: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "NCCL_DEBUG": "INFO",
                "NCCL_DEBUG_FILE": f"{folder}/nccl.%p.log",
                "NCCL_SOCKET_IFNAME": "lo",
                "GLOO_SOCKET_IFNAME": "lo",
                "NCCL_MNNVL_ENABLE": "0",
                "NCCL_NVLS_ENABLE": "0",
                **variables,
            }
            command = [
                sys.executable, "-m", "shoal.cli", "run", "-n", str(RANKS), "--grace", "2",
                "--timeout", str(int(limit_s)), *options, sys.executable, PROGRAM, *words,
            ]  # fmt: skip
            try:
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True, timeout=limit_s + 8, check=False,
                )  # fmt: skip
                self.code, self.output = done.returncode, done.stdout
            except subprocess.TimeoutExpired as expired:
                so_far = expired.stdout or b""
                text = so_far if isinstance(so_far, str) else so_far.decode(errors="replace")
                self.code, self.output = 124, text + "\nshoal run itself did not end"
            logs = sorted(pathlib.Path(folder).glob("nccl.*.log"))
            self.log = "\n".join(log.read_text(errors="replace") for log in logs)

    def require(self, parts: list[str]) -> None:
        bad = [p for p in parts if self.output.count(f"{p}: right") != RANKS]
        if bad or self.code != 0:
            raise Failed(self.shown(f"exit code {self.code}; not right on all ranks: {bad}"))

    def shown(self, why: str) -> str:
        tail = ["--- the job:", *self.output.splitlines()[-TAIL:]]
        if self.log:
            tail += ["--- NCCL:", *self.log.splitlines()[-TAIL:]]
        return "\n".join([why, *tail])

    def found(self, pattern: str) -> list[str]:
        """In NCCL's log or the output, without repetition."""
        return sorted(set(re.findall(pattern, self.log + self.output)))


def imports_are_exported(_: float) -> str:
    """What torch asks NCCL for, shoal's libnccl.so.2 has."""
    torch = importlib.util.find_spec("torch")
    library = pathlib.Path(torch.origin or "").parent / "lib/libtorch_cuda.so" if torch else None
    if library is None or not library.exists():
        raise Skipped("no libtorch_cuda.so here")
    wanted = names("--undefined-only", library)
    wanted = {name for name in wanted if re.match(r"p?nccl[A-Z]", name)}
    missing = wanted - names("--defined-only", _nccl.drop_in())
    if missing:
        raise Failed(f"{library} needs {', '.join(sorted(missing))}")
    return f"all {len(wanted)} functions that libtorch_cuda.so asks for"


def names(which: str, library: pathlib.Path) -> set[str]:
    shown = subprocess.run(
        ["nm", "-D", which, library], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    return {line.split()[-1].split("@")[0] for line in shown.splitlines() if line.strip()}


def over_the_plugin(limit_s: float) -> str:
    """NCCL itself, unchanged, moves its data by shoal's network."""
    plugin = _nccl.plugin()
    if plugin is None:
        raise Skipped(f"this build has no {_nccl.NAME}")
    folders = f"{plugin.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    parts = [*PARTS, "premultiplied"]
    job = Job(parts, limit_s, NCCL_NET_PLUGIN="shoal", LD_LIBRARY_PATH=folders)  # shoal env --nccl
    if job.code != 0:
        alone = Job(["average"], min(limit_s, 20), NCCL_NET_PLUGIN="none", NCCL_NET="Socket")
        verdict = "works here" if alone.code == 0 else f"fails here too ({alone.code})"
        job.output += f"\n--- NCCL over its own sockets, two ranks on a GPU: {verdict}"
    job.require(parts)
    versions = job.found(r"Loaded net plugin shoal \((v\d+)\)")
    channels = job.found(r"via (NET/\w+)")
    if not versions or channels != ["NET/shoal"]:
        raise Failed(job.shown(f"NCCL did not use it: tables {versions}, channels {channels}"))
    return f"{first_line(job)}; table {versions[0]}, channels by {channels[0]}"


def answered_by_shoal(parts: list[str], *more: str) -> Callable[[float], str]:
    def check(limit_s: float) -> str:
        if not _nccl.drop_in().exists():
            raise Skipped("this build has no libnccl.so.2")
        job = Job([*more, *parts], limit_s, "--nccl", NCCL_DEBUG="WARN")
        job.require(parts)
        if str(_nccl.drop_in().resolve()) not in job.output and "NCCL" in job.output:
            raise Failed(job.shown("another libnccl.so.2 has answered"))
        return f"{first_line(job)}: {', '.join(parts)}"

    return check


def passed_on(limit_s: float) -> str:
    if not _nccl.preloads().get("SHOAL_REAL_NCCL", os.environ.get("SHOAL_REAL_NCCL")):
        raise Skipped("no nvidia-nccl wheel here; SHOAL_REAL_NCCL may name NCCL's library")
    return answered_by_shoal(["premultiplied"])(limit_s)


def first_line(job: Job) -> str:
    return next(iter(job.found(r"NCCL \d+\.\d+\.\d+ from \S+")), "gloo on the CPU")


def tried(limit_s: float) -> str:
    parts = [*PARTS[:1], "messages", "groups", "ddp"]
    job = Job(parts, limit_s)
    job.require(parts)
    return f"{first_line(job)}: {', '.join(parts)}"


CHECKS: dict[str, Callable[[float], str]] = {
    "the drop-in exports what torch imports": imports_are_exported,
    "NCCL over shoal's plug-in": over_the_plugin,
    "torch's nccl backend by shoal": answered_by_shoal(PARTS),
    "torch's nccl backend by shoal, connected at once": answered_by_shoal(
        ["average", "groups", "ddp"], "--eager"
    ),
    "what shoal passes on to NCCL itself": passed_on,
}
TRIALS: dict[str, Callable[[float], str]] = {
    "the drop-in exports what torch imports": imports_are_exported,
    "the program, by gloo": tried,
}


def has_cuda() -> bool:
    """Also reads torch from the disk once, so that no check waits for that."""
    ask = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", ask], timeout=120, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--try", action="store_true", dest="trial")
    parser.add_argument("--seconds", type=float, default=ALL_S, help="for all of it")
    options = parser.parse_args()
    if not options.trial and not has_cuda():
        print("skipped NCCL's users: no PyTorch with CUDA here")
        return
    end = time.monotonic() + options.seconds
    failed = 0
    for name, check in (TRIALS if options.trial else CHECKS).items():
        begin = time.monotonic()
        try:
            if end - begin < 8:
                raise Skipped(f"the {options.seconds:.0f} s are over")
            word, text = "ok", check(min(CHECK_S - 8, end - begin))
        except Skipped as why:
            word, text = "skipped", str(why)
        except Exception as error:
            failed += 1
            word, text = "FAILED", f"{'' if isinstance(error, Failed) else repr(error)}{error}"
        print(f"{word} {name}: {text} ({time.monotonic() - begin:.0f} s)", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
