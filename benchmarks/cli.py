"""`shoal bench`."""

from __future__ import annotations

import argparse
import sys

from . import startup
from .campaign import Campaign
from .command import USAGE_CODE, carry_out
from .plan import Plan, UsageError, add_arguments, plan_of
from .rows import Report
from .table import summary

__all__ = ["add_arguments", "main"]


def main(options: argparse.Namespace) -> int:
    if options.startup:
        return startup.main(options)
    if options.torch:
        from .torch import cli as torch_cli

        return torch_cli.main(options)
    try:
        plan = plan_of(options)
    except UsageError as error:
        print(f"shoal bench: {error}", file=sys.stderr)
        return USAGE_CODE
    campaign = Campaign(plan, lambda text: print(f"==> {text}", flush=True))
    code = carry_out(campaign.run)
    print(*summary(campaign.report.rows), sep="\n")
    _write(campaign.report, plan)
    for mistake in campaign.mistakes:
        print(f"shoal bench: {mistake}", file=sys.stderr)
    return code or bool(campaign.mistakes)


def _write(report: Report, plan: Plan) -> None:
    """Also of a run that was cut short."""
    if plan.json:
        report.write_json(plan.json)
    if plan.rows:
        report.write_rows(plan.rows)
    if plan.report:
        from .document import write  # matplotlib is optional, and slow to import

        write(report, plan.report)
