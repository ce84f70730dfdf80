"""Which line of Python a thread of another process is at: asked of py-spy, of shoal[trace].

It reads the process's memory and does not stop it; that needs the right to trace the process.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

_LIMIT_S = 5.0
_FRAMES = 3


def _program() -> str | None:
    beside = pathlib.Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def _describe(frame: dict[str, object]) -> str:
    name = os.path.basename(str(frame.get("short_filename") or frame.get("filename")))
    return f"{frame.get('name')} ({name}:{frame.get('line')})"


def python_line(pid: int, tid: int) -> tuple[str, str]:
    """("load (train.py:12) < main (train.py:40)", "") or ("", why it is not known)."""
    program = _program()
    if program is None:
        return "", "the Python line: py-spy is not installed; pip install 'shoal[trace]'"
    command = [program, "dump", "--pid", str(pid), "--nonblocking", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"the Python line: py-spy: {error}"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return "", f"the Python line: py-spy: {last}"
    try:
        threads = json.loads(done.stdout)
    except ValueError:
        return "", "the Python line: py-spy: not JSON"
    for thread in threads:
        if thread.get("os_thread_id") == tid and thread.get("frames"):
            return " < ".join(_describe(frame) for frame in thread["frames"][:_FRAMES]), ""
    return "", "the Python line: the thread runs no Python"
