"""Prints, one a line, the PyPI packages that pyproject.toml asks for.

    python scripts/requirements.py build run test

`build` is what building needs, `run` what the package needs; other names are its extras.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip brings the reader that this version lacks
    from pip._vendor import tomli as tomllib


def main(names: list[str]) -> None:
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    groups = {
        "build": project["build-system"]["requires"],
        "run": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
    }
    unknown = set(names) - set(groups)
    if unknown:
        raise SystemExit(f"requirements.py: no such group: {sorted(unknown)}; has {sorted(groups)}")
    print(*dict.fromkeys(line for name in names for line in groups[name]), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
