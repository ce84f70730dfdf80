"""Adds up JUnit reports: `python scripts/summary.py build/reports` ends with `N passed, N failed`.

Fails when a report is missing, broken or empty, or counts a failure. One that says why its stage
could not run here (`scripts/junit.py skipped`) is not empty.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

EXPECTED = (
    "cpp.xml", "python.xml", "trace.xml", "torch.xml", "torch-suites.xml", "rdma.xml", "asan.xml",
    "tsan.xml",
)  # fmt: skip


def count(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped test cases of one report."""
    passed = failed = skipped = 0
    for case in ET.parse(report).getroot().iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"} or case.get("status") == "fail":
            failed += 1
        elif "skipped" in outcomes or case.get("status") in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def says_why_skipped(report: Path) -> bool:
    suite = ET.parse(report).getroot()
    return suite.get("name") == "skipped" and suite.find("testcase/skipped") is not None


def main(folder: Path) -> int:
    totals = [0, 0, 0]
    broken = False
    for name in EXPECTED:
        try:
            counts = count(folder / name)
        except (OSError, ET.ParseError) as error:
            print(f"    {name}: no result ({error})")
            broken = True
            continue
        broken |= counts[0] == 0 and not says_why_skipped(folder / name)
        totals = [total + one for total, one in zip(totals, counts, strict=True)]
        print("    {:<16} {} passed, {} failed, {} skipped".format(name, *counts))
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if broken or totals[1] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
