"""JUnit reports of test-rdma.

python scripts/junit.py merge OUT IN...       one report; suites are named after their file
python scripts/junit.py skipped OUT REASON    a report of one test, skipped for this reason
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def merge(out: Path, reports: list[Path]) -> None:
    merged = ET.Element("testsuites")
    for report in reports:
        for suite in ET.parse(report).getroot().iter("testsuite"):
            suite.set("name", f"{report.stem}: {suite.get('name', '')}")
            merged.append(suite)
    ET.ElementTree(merged).write(out, encoding="utf-8", xml_declaration=True)


def skipped(out: Path, reason: str) -> None:
    suite = ET.Element("testsuite", name="skipped", tests="1", skipped="1")
    case = ET.SubElement(suite, "testcase", classname="stage", name="stage")
    ET.SubElement(case, "skipped", message=reason)
    ET.ElementTree(suite).write(out, encoding="utf-8", xml_declaration=True)


def main(command: str, out: str, *rest: str) -> None:
    if command == "merge":
        merge(Path(out), [Path(name) for name in rest])
    elif command == "skipped":
        skipped(Path(out), " ".join(rest))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
