"""`shoal bench`."""

from __future__ import annotations

import argparse
import sys

from .campaign import Campaign
from .plan import UsageError, add_arguments, plan_of
from .session import LibraryFailed
from .workshop import Unavailable

__all__ = ["add_arguments", "main"]

USAGE_CODE = 2


def main(options: argparse.Namespace) -> int:
    try:
        plan = plan_of(options)
    except UsageError as error:
        print(f"shoal bench: {error}", file=sys.stderr)
        return USAGE_CODE
    campaign = Campaign(plan, lambda text: print(f"==> {text}", flush=True))
    try:
        campaign.run()
    except (Unavailable, LibraryFailed) as error:
        print(f"shoal bench: {error}", file=sys.stderr)
        return 1
    if plan.json:
        campaign.report.write_json(plan.json)
    if plan.rows:
        campaign.report.write_rows(plan.rows)
    return 1 if campaign.mistakes else 0
