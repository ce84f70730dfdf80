"""The wheel holds NCCL's plug-in, and `shoal env --nccl` makes NCCL find it."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

# What NCCL does with NCCL_NET_PLUGIN=shoal: dlopen of this name, dlsym of the newest table, whose
# first word is the network's name.
LOAD = """
import ctypes
library = ctypes.CDLL("libnccl-net-shoal.so")
for version in range(6, 13):
    table = ctypes.c_char_p.in_dll(library, f"ncclNetPlugin_v{version}")
    print(version, table.value.decode())
"""


def shoal(*arguments: str) -> str:
    command = [sys.executable, "-m", "shoal.cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_env_makes_nccl_find_the_plugin() -> None:
    lines = shoal("env", "--nccl")
    assert "NCCL_NET_PLUGIN=shoal" in lines
    script = f"{lines}\nexec {sys.executable} -c '{LOAD}'"
    done = subprocess.run(
        ["bash", "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:-1] == [f"{version} shoal" for version in range(6, 13)]


def test_info_names_the_plugin() -> None:
    path = json.loads(shoal("info", "--json"))["nccl_plugin"]
    assert ctypes.CDLL(path).ncclNetPlugin_v12
    assert path in shoal("info")
