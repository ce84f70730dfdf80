"""`shoal bench --torch`."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from ..command import USAGE_CODE, carry_out
from ..measure import Effort
from ..plan import UsageError, chosen, ranks_of, sizes_of, with_rounds, writable
from .cells import OPS, SIZES, TRAININGS
from .document import write
from .run import Plan, Run
from .table import summary

_QUICK_SIZES = "8,1Ki,128Ki,1Mi"
_QUICK_TRAININGS = ["ddp"]
_RANKS, _QUICK_RANKS = "2,4", "2"
_MINUTES, _QUICK_MINUTES = 25.0, 3.0
_QUICK = Effort(5, 3, 3, 0.012, 2, block_us=200, rotates=True)
_FULL = Effort(9, 5, 10, 0.030, 2, block_us=200, rotates=True)
_QUICK_TRAINING = Effort(5, 3, 15, 0.10, 2, rotates=True)
_FULL_TRAINING = Effort(15, 9, 45, 0.15, 2, rotates=True)


def main(options: argparse.Namespace) -> int:
    try:
        plan = _plan_of(options)
        json, rows = writable("--json", options.json), writable("--rows", options.rows)
        report = writable("--report", options.report)
    except UsageError as error:
        print(f"shoal bench: {error}", file=sys.stderr)
        return USAGE_CODE
    run = Run(plan, lambda text: print(f"==> {text}", flush=True))
    code = carry_out(run.run)
    print(*summary(run.report), sep="\n")
    if json:
        run.report.write_json(json)
    if rows:
        run.report.write_rows(rows)
    if report:
        write(run.report, report)
    for mistake in run.mistakes:
        print(f"shoal bench: {mistake}", file=sys.stderr)
    return code or bool(run.mistakes)


def _plan_of(options: argparse.Namespace) -> Plan:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("--torch needs torch in this environment: pip install torch")
    if options.network or options.libraries:
        raise UsageError("--torch has gloo and shoal on one host: no --network, no --libraries")
    words = chosen("--ops", options.ops, [*OPS, *TRAININGS])
    trainings = [word for word in words if word in TRAININGS]
    if options.quick and options.ops is None:
        trainings = _QUICK_TRAININGS
    ranks = options.ranks or (_QUICK_RANKS if options.quick else _RANKS)
    return Plan(
        ops=[word for word in words if word in OPS],
        sizes=sizes_of(options.sizes or (_QUICK_SIZES if options.quick else SIZES)),
        trainings=trainings,
        ranks=ranks_of("--ranks", ranks),
        effort=with_rounds(_QUICK if options.quick else _FULL, options.rounds),
        training_effort=with_rounds(
            _QUICK_TRAINING if options.quick else _FULL_TRAINING, options.rounds
        ),
        minutes=options.minutes or (_QUICK_MINUTES if options.quick else _MINUTES),
        directory=options.directory,
    )
