"""The confusion matrix, as text and as a part of a page."""

from __future__ import annotations

import os
import pathlib
import platform
import statistics
from collections import Counter
from collections.abc import Sequence

from tests.trace.faults import judge
from tests.trace.faults.catalog import FAULTS
from tests.trace.faults.judge import Outcome

BEGIN, END = (
    "<!-- faults: begin (written by python -m tests.trace.faults) -->",
    "<!-- faults: end -->",
)
RIGHT_SHARE = 0.95

# Counted for or against the tracer. The rest (judge.NOT_LATE, NOISE, BROKEN) says nothing of it.
JUDGED = (
    judge.RIGHT, judge.OTHER_CAUSE, judge.UNKNOWN, judge.WRONG_RANK, judge.MISSED,
    judge.FALSE_ALARM,
)  # fmt: skip


class Row:
    """All seeds of one class."""

    def __init__(self, name: str, outcomes: Sequence[Outcome]) -> None:
        self.name = name
        self.outcomes = [o for o in outcomes if o.result in JUDGED]
        self.spoilt = Counter(o.result for o in outcomes if o.result not in JUDGED)
        self.count = Counter(o.result for o in self.outcomes)

    @property
    def share(self) -> float:
        return self.count[judge.RIGHT] / len(self.outcomes) if self.outcomes else 0.0

    @property
    def passes(self) -> bool:
        return (
            self.share >= RIGHT_SHARE
            and not self.count[judge.WRONG_RANK]
            and not self.count[judge.FALSE_ALARM]
        )

    def seconds(self, attached: str) -> list[float]:
        return [
            o.seconds
            for o in self.outcomes
            if o.attached == attached and o.seconds is not None and o.result == judge.RIGHT
        ]


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    names = list(dict.fromkeys(o.fault for o in outcomes))
    return [Row(name, [o for o in outcomes if o.fault == name]) for name in names]


def _times(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.2f}" if values else "-"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, kernel {platform.release()}"


def _right(row: Row) -> str:
    return f"{row.count[judge.RIGHT]} of {len(row.outcomes)} ({row.share:.0%})"


def results(table: Sequence[Row]) -> list[str]:
    """How often right, and how soon."""
    head = ("class", "what", "right", "other cause", "unknown", "missed", "wrong rank",
            "attached before: s", "after: s", "spoilt")  # fmt: skip
    body = []
    for row in table:
        what = FAULTS[row.name].what if row.name in FAULTS else "no fault"
        spoilt = ", ".join(f"{n} {word}" for word, n in row.spoilt.items()) or "-"
        body.append(
            [
                row.name, what, _right(row),
                *(str(row.count[word]) for word in (judge.OTHER_CAUSE, judge.UNKNOWN, judge.MISSED,
                                                    judge.WRONG_RANK)),
                _times(row.seconds("before")), _times(row.seconds("after")), spoilt,
            ]
        )  # fmt: skip
    return _table(head, body)


def confusion(table: Sequence[Row]) -> list[str]:
    """Rows: what was done. Columns: what the tracer named, whichever rank."""
    causes = sorted({o.cause for row in table for o in row.outcomes})
    body = []
    for row in table:
        named = Counter(o.cause for o in row.outcomes)
        body.append([row.name, *(str(named[cause] or ".") for cause in causes)])
    return _table(("class", *causes), body)


def markdown(outcomes: Sequence[Outcome], skipped: dict[str, str], settings: str) -> str:
    table = rows(outcomes)
    right = sum(row.count[judge.RIGHT] for row in table)
    judged = sum(len(row.outcomes) for row in table)
    wrong = sum(row.count[judge.WRONG_RANK] for row in table)
    lines = [
        f"{right} of {judged} verdicts right, {wrong} of a wrong rank. {settings}.",
        "Times: median / worst, from the fault, or from the tracer's start where that came later.",
        "Spoilt: the fault made nobody wait 100 ms, or the machine's other work came first.",
        "",
        *results(table),
        "",
        "What the tracer named, by class:",
        "",
        *confusion(table),
    ]
    watched_s = sum(o.watched_s for o in outcomes)
    if watched_s:
        lines.append(
            f"\nHealthy jobs: {watched_s / 60:.1f} minutes in all, "
            f"{sum(o.verdicts for o in outcomes)} verdicts, "
            f"{sum(o.unfounded for o in outcomes)} without a late call."
        )
    played = {row.name for row in table}
    lines += [
        f"\nNot run here: {name} ({why})." for name, why in skipped.items() if name not in played
    ]
    return "\n".join(lines) + "\n"


def write_into(page: pathlib.Path, text: str) -> None:
    """Replaces what lies between the two marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: needs the lines\n{BEGIN}\n{END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
