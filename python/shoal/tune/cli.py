"""``shoal tune [-n N | --hosts A:2,B:2] [--ops ...] [--sizes ...]``: the command line."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
from pathlib import Path

from shoal import _core
from shoal.launch import run
from shoal.launch.job import UsageError
from shoal.tune.results import NO_TABLE, Listener, Measured, OneNode, Spec
from shoal.tune.table import report, table_text

OPS = "all_reduce,broadcast,reduce,all_gather,reduce_scatter,all_to_all,gather,scatter,barrier"
SIZES = "64,512,4K,16K,64K,256K,1M,4M,16M"
MOST_BYTES = 1 << 36
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# Beyond the minutes of measuring: to start, to find one another, to end a visit that has begun.
SLACK_SECONDS = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Starts ranks as `shoal run` does, measures which algorithm is the fastest for each "
        "collective and size, and writes that into a table, which later jobs choose by."
    )
    run.add_launch_arguments(parser)
    add = parser.add_argument
    add("--ops", default=OPS, metavar="LIST", help="which collectives (default: all)")
    add("--sizes", default=SIZES, metavar="LIST",
        help="bytes of the largest buffer of a rank (default: %(default)s)")  # fmt: skip
    add("--rounds", type=int, default=10, metavar="N",
        help="how often each algorithm is visited (default: %(default)d)")  # fmt: skip
    add("--minutes", type=float, default=5.0, metavar="M",
        help="measure no longer than that (default: %(default)g)")  # fmt: skip
    add("--output", type=Path, metavar="FILE",
        help="default: where jobs look, SHOAL_TUNING_FILE or ~/.config/shoal/tuning")  # fmt: skip
    add("--fresh", action="store_true",
        help="drop what else FILE holds, of other ranks and collectives")  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    try:
        return _tune(arguments)
    except UsageError as error:
        print(f"shoal tune: {error}", file=sys.stderr)
        return run.USAGE_CODE


def _tune(arguments: argparse.Namespace) -> int:
    spec = _spec(arguments)
    output = _output(arguments.output)
    _kept(output, arguments.fresh)  # a malformed one is an error now, not after minutes
    code, outcome = _measure(arguments, spec)
    if isinstance(outcome, OneNode):
        print(
            f"shoal tune: all {outcome.ranks} rank(s) are in one node, where there is nothing to "
            "choose: every collective is `direct`, straight out of the ranks' buffers. Algorithms "
            "differ between nodes: give two or more by --hosts a:2,b:2"
        )
        return code
    if code != 0 or outcome is None:
        print("shoal tune: the job has failed; nothing was written", file=sys.stderr)
        return code or 1
    return _finish(outcome, output, arguments)


def _measure(arguments: argparse.Namespace, spec: Spec) -> tuple[int, OneNode | Measured | None]:
    """The exit code of the job, and what it has found."""
    listener = Listener()
    job = argparse.Namespace(
        **vars(arguments),
        command=[sys.executable, "-m", "shoal.tune.worker", spec.text()],
        timeout=spec.seconds + SLACK_SECONDS,
        json_report=None,
        tag_output=True,  # a single rank's output comes by us too
        no_prefix=False,
    )
    return run.run(job, listener).code, listener.outcome


def _finish(measured: Measured, output: Path, arguments: argparse.Namespace) -> int:
    where = f"{measured.ranks} ranks on {measured.nodes} nodes, {measured.node_ranks} a node"
    print(f"{where}; network: {measured.network}\n")
    if not measured.cells:
        print(
            "shoal tune: nothing was measured, and nothing is written: the collectives that were "
            "asked for have one algorithm here, or --minutes was over before the first round was"
        )
        return 0
    for line in report(measured):
        print(line)
    if len(measured.cells) < measured.planned:
        rest = measured.planned - len(measured.cells)
        print(f"time was over before {rest} of {measured.planned} cells were measured: --minutes")
    kept = _kept(output, arguments.fresh)
    _write(output, _core.merge_tuning(kept, str(output), table_text(measured)))
    print(f"written: {output} ({len(measured.cells)} rows)")
    if output != Path(_core.tuning_path()):
        print(f"in use with SHOAL_TUNING_FILE={output} or shoal.init(tuning=...), at rank 0")
    return 0


# ---- arguments


def _spec(arguments: argparse.Namespace) -> Spec:
    if arguments.rounds < 1:
        raise UsageError(f"--rounds {arguments.rounds}: at least one is needed")
    if not (0 < arguments.minutes < math.inf):
        raise UsageError(f"--minutes {arguments.minutes:g}: give a positive number, e.g. 0.5")
    sizes = sorted({_bytes(word) for word in _words("--sizes", arguments.sizes)})
    ops = _words("--ops", arguments.ops)
    known = OPS.split(",")
    for op in ops:
        if op not in known:
            raise UsageError(f"--ops: {op!r} is not a collective; known are {', '.join(known)}")
    return Spec(list(dict.fromkeys(ops)), sizes, arguments.rounds, arguments.minutes * 60)


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r}: give words with commas between them")
    return words


def _bytes(word: str) -> int:
    digits, unit = (word[:-1], word[-1]) if word[-1].upper() in UNITS else (word, "")
    number = int(digits) if digits.isascii() and digits.isdigit() else 0
    size = number * UNITS.get(unit.upper(), 1)
    if not 0 < size <= MOST_BYTES:
        raise UsageError(f"--sizes: {word!r} is not a number of bytes, like 64, 4K or 1M")
    return size


# ---- the file


def _output(given: Path | None) -> Path:
    usual = _core.tuning_path()
    if given is None and usual in ("", NO_TABLE):
        raise UsageError(
            "there is no place where jobs look for a table (HOME is not set, or SHOAL_TUNING_FILE "
            "says none); give --output FILE"
        )
    output = Path(usual) if given is None else given
    if output.is_dir():
        raise UsageError(f"--output {output}: is a directory; name a file")
    folder = output.absolute().parent
    if given is None:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--output {output}: {folder} is no directory that can be written to")
    return output


def _kept(output: Path, fresh: bool) -> str:
    """The table that the new one is added to, checked; "" if there is none."""
    if fresh:
        return ""
    try:
        text = output.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--output {output}: {error}; --fresh replaces it") from error
    if not text.strip():
        return ""
    try:
        _core.merge_tuning(text, str(output), text)
    except _core.InvalidArgument as error:
        raise UsageError(f"{error}; or replace it all by --fresh") from error
    return text


def _write(output: Path, text: str) -> None:
    """Whole or not at all: jobs that start meanwhile read the old table or the new one."""
    target = output.resolve()  # of a link: what it points to
    with tempfile.NamedTemporaryFile(
        "w", dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
