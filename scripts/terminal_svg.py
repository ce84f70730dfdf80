"""Runs a command and draws what it printed, as a terminal shows it, into an SVG.

    scripts/terminal_svg.py docs/find-the-straggler.svg -- python examples/find_the_straggler.py

Needs rich (the extra `test`). The colours of the command's own output are kept.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import re
import shlex
import subprocess
import sys

from rich.console import Console
from rich.text import Text

COLUMNS = 124
LIMIT_S = 120


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def draw(shown: str, output: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {shown}", "bold"))
    for line in output.splitlines():
        # What is indented is evidence: it stands back behind the verdict.
        console.print(Text.from_ansi(line, style="dim" if line.startswith(" ") else ""))
    svg = console.export_svg(title=shown)
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # nothing from the network


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("svg", type=pathlib.Path)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    words = [sys.executable if word == "python" else word for word in options.command]
    options.svg.write_text(draw(shlex.join(options.command), run(words)))


if __name__ == "__main__":
    main()
