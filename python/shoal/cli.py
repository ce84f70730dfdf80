"""The `shoal` command: run, ps, top, trace, info, env, plan, tune, bench."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import sys
from typing import Any

from shoal import _core, _nccl, pages
from shoal._ucx import ucx_directory
from shoal.launch import run
from shoal.tune import cli as tune


def _describe(page: pages.Page) -> dict[str, Any]:
    """One rank, as `shoal ps` shows it."""
    latest = page.latest
    begun = latest is not None and latest.begin_ns > 0
    return {
        "job": page.job,
        "rank": page.rank,
        "ranks": page.ranks,
        "host": page.host,
        "pid": page.pid,
        "state": page.state,
        "heartbeat_ms": page.heartbeat_ms,
        "posted": page.posted,
        "completed": page.completed,
        "failed": page.failed,
        "communicator": latest.communicator if latest else 0,
        "sequence": latest.sequence if latest else 0,
        "collective": latest.collective if latest else "",
        "dtype": latest.dtype if latest else "",
        "count": latest.count if latest else 0,
        "operation": latest.state if latest else "",
        "step": latest.step if latest else 0,
        "awaited_peer": latest.awaited_peer if latest else -1,
        "age_ms": (page.read_ns - latest.begin_ns) // 1_000_000 if latest and begun else 0,
    }


def _ps(options: argparse.Namespace) -> int:
    states = [_describe(page) for page in pages.read_all()]
    if options.json:
        print(json.dumps(states, indent=2))
        return 0
    if not states:
        print("no shoal jobs on this node (of this user)")
        return 0
    row = "{:<28} {:>5} {:>8} {:<8} {:>4} {:<32} {:<9} {:>5} {:>6} {:>9} {:>10} {:>10}"
    heads = ("job", "rank", "pid", "process", "comm", "operation", "state", "step", "awaits", "age")
    print(row.format(*heads, "posted", "completed"))
    for s in states:
        what = "{collective} #{sequence} ({count} {dtype})".format(**s) if s["operation"] else "-"
        awaited = "-" if s["awaited_peer"] < 0 else str(s["awaited_peer"])
        print(
            row.format(
                s["job"][:28], f"{s['rank']}/{s['ranks']}", s["pid"], s["state"],
                s["communicator"], what[:32], s["operation"] or "-", s["step"], awaited,
                f"{s['age_ms']} ms", s["posted"], s["completed"],
            )
        )  # fmt: skip
    return 0


def _memlock() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} KiB"


def _gather_info() -> dict[str, Any]:
    info: dict[str, Any] = dict(_core.info(ucx_directory()))
    info["numa_nodes"] = len(list(pathlib.Path("/sys/devices/system/node").glob("node[0-9]*")))
    info["cores"] = len(os.sched_getaffinity(0))
    info["memlock"] = _memlock()
    info["nccl_plugin"] = str(_nccl.plugin() or "")
    return info


def _rdma_rows(ports: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """One row a port, then one for each of its GIDs, which firewalls and other tools ask for."""
    rows = []
    for port in ports:
        rows.append(("", port["text"]))
        for gid in port["gids"]:
            where = f" on {gid['netdev']}" if gid["netdev"] else ""
            rows.append(("", f"  GID {gid['index']}: {gid['address']}, {gid['type']}{where}"))
    first = rows[0][1] if rows else "none"
    return [("RDMA ports", first), *rows[1:]]


def _cuda_rows(cuda: dict[str, Any]) -> list[tuple[str, str]]:
    """The driver, or why there is none; then one row a device."""
    if not cuda["found"]:
        return [("CUDA", f"not found: {cuda['reason']}")]
    rows = [("CUDA", f"{cuda['reason']} at {cuda['path']}")]
    for number, device in enumerate(cuda["devices"]):
        size = f"{device['total_bytes'] / 2**30:.1f} GiB"
        rows.append(("", f"cuda:{number}: {device['name']}, {size}, shared by {device['export']}"))
    return rows


def _info(options: argparse.Namespace) -> int:
    info = _gather_info()
    if options.json:
        print(json.dumps(info, indent=2))
        return 0
    ucx = info["ucx"]
    library = f"{ucx['version']} at {ucx['path']}" if ucx["found"] else "not found"
    rows = [
        ("shoal", f"{info['version']} ({info['compiler']}{info['sanitizers'] and ', sanitizers'})"),
        ("reduction kernels", info["isa"]),
        ("probes (USDT)", "yes" if info["probes"] else "no: build with systemtap-sdt-dev"),
        ("between nodes", info["network"]),
        ("UCX", library),
        ("", f"transports: {', '.join(ucx['transports']) or '-'}"),
        ("", f"verbs: {'yes' if ucx['verbs'] else 'no'}; {ucx['reason']}"),
        *_rdma_rows(info["rdma_ports"]),
        *_cuda_rows(info["cuda"]),
        ("huge pages", info["huge_pages"]),
        ("NUMA nodes", f"{info['numa_nodes']}; {info['numa']}"),
        ("cores", str(info["cores"])),
        ("locked memory", info["memlock"]),
        ("NCCL plug-in", info["nccl_plugin"] or "not built"),
    ]
    for name, text in rows:
        print(f"{name:<18} {text}")
    return 0


def _env(options: argparse.Namespace) -> int:
    lines = _nccl.plugin_settings()
    if not lines:
        print(f"shoal: this installation has no {_nccl.NAME}; build csrc/nccl", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def _plan(options: argparse.Namespace) -> int:
    if options.list or not options.collective:
        for entry in _core.catalog():
            marks = "deterministic" if entry["deterministic"] else ""
            print(f"{entry['collective']:<15} {entry['algorithm']:<19} {marks:<14} {entry['cost']}")
        return 0
    text = _core.plan(
        options.collective,
        options.algorithm,
        ranks=options.ranks,
        count=options.ranks * 16 if options.count is None else options.count,
        rank=options.rank,
        root=options.root,
        node_ranks=options.node_ranks,
    )
    print(text, end="" if text.endswith("\n") else "\n")
    return 0


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoal", description=__doc__)
    parser.add_argument("--version", action="version", version=_core.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="start the ranks of a job and watch them")
    run.add_arguments(command)
    command.set_defaults(main=run.main)

    command = commands.add_parser("ps", help="what the ranks of this node's jobs are doing")
    command.add_argument("--json", action="store_true")
    command.set_defaults(main=_ps)

    # Imported only where they are asked for: it takes as long as all the rest.
    command = commands.add_parser("top", help="the same with rates and lateness, live")
    if "top" in arguments[:1]:
        from shoal.trace import top

        top.add_arguments(command)
        command.set_defaults(main=top.main)

    command = commands.add_parser("trace", help="who makes a running job late, and why")
    if "trace" in arguments[:1]:
        from shoal.trace import cli as trace

        trace.add_arguments(command)
        command.set_defaults(main=trace.main)

    command = commands.add_parser("info", help="what was built in and what this machine offers")
    command.add_argument("--json", action="store_true")
    command.set_defaults(main=_info)

    command = commands.add_parser("env", help='what a shell sets: eval "$(shoal env --nccl)"')
    command.add_argument(
        "--nccl", action="store_true", required=True, help="that NCCL jobs use shoal's network"
    )
    command.set_defaults(main=_env)

    command = commands.add_parser("plan", help="print an algorithm's steps")
    command.add_argument("collective", nargs="?")
    command.add_argument("--algorithm", default="ring")
    command.add_argument("--ranks", type=int, default=4)
    command.add_argument("--rank", type=int, help="only this rank's steps")
    command.add_argument("--count", type=int, help="elements of one block (default: 16 a rank)")
    command.add_argument("--root", type=int, default=0)
    command.add_argument("--node-ranks", type=int, help="ranks of one node")
    command.add_argument("--list", action="store_true", help="the catalog")
    command.set_defaults(main=_plan)

    command = commands.add_parser("tune", help="measure the fastest algorithms of this cluster")
    tune.add_arguments(command)
    command.set_defaults(main=tune.main)

    command = commands.add_parser("bench", help="time shoal beside other libraries")
    if "bench" in arguments[:1]:
        from shoal.bench import cli as bench

        bench.add_arguments(command)
        command.set_defaults(main=bench.main)
    return parser


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words).parse_args(words)
    try:
        return int(options.main(options))
    except _core.Error as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
