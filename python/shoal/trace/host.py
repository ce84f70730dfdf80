"""What holds a rank on its own host: its process, or the thread that should go on.

Thresholds are fractions of the time between the two moments.
"""

from __future__ import annotations

from shoal.pages import Page
from shoal.trace.evidence import Evidence, Moment
from shoal.trace.finding import Finding, in_ms, share
from shoal.trace.processes import CLOCK_TICKS, Thread, command, syscall_name

THROTTLED = 0.25
PREEMPTED = 0.5
STARVED = 0.1  # who is ready at both moments and has run less than this had no core
LEAST_OF_WINDOW = 0.5  # that eBPF's two samples are apart; else the tracer had no core itself
BUSY = 0.5
REGISTERING = 0.3
FAULTS_PER_MS = 20

SLEEPS = frozenset({"nanosleep", "clock_nanosleep"})
SELECTS = frozenset({"select", "pselect6"})  # with no descriptors: a sleep
WAITS = frozenset({"futex", "poll", "ppoll", "epoll_wait", "epoll_pwait", "select", "pselect6"})
REGISTERS = frozenset(
    {"mlock", "mlock2", "munlock", "mmap", "munmap", "mremap", "madvise", "ioctl"}
)


def process_trouble(ev: Evidence, page: Page) -> Finding | None:
    """What holds a whole process, whatever its threads do."""
    process = ev.after.processes.get(page.pid)
    if process is None:
        return None
    if process.gone:
        return Finding("died", (f"pid {page.pid} is gone",))
    main = process.threads.get(page.pid)
    if main is not None and main.state in "Tt":
        return _stopped(ev, page, process.tracer, main.state)
    for before, after in ev.cgroups(page.pid):
        if after.frozen:
            return Finding("frozen", (f"cgroup {after.path} is frozen",))
        throttled_ns = (after.throttled_us - before.throttled_us) * 1000
        periods = after.throttled_periods - before.throttled_periods
        if throttled_ns >= THROTTLED * ev.window_ns or periods > 1:
            return Finding(
                "throttled",
                (
                    f"cgroup {after.path} was throttled in {periods} periods, "
                    f"{in_ms(throttled_ns)} in {in_ms(ev.window_ns)}",
                    f"its quota is {after.quota_us} us of CPU in {after.period_us} us",
                ),
            )
    return None


def _stopped(ev: Evidence, page: Page, tracer: int, letter: str) -> Finding:
    evidence = [f"process state {letter} ({'traced' if letter == 't' else 'stopped'})"]
    missing: tuple[str, ...] = ()
    if tracer:
        evidence.append(f"pid {tracer} ({command(tracer)}) traces it")
    stops = [s for s in ev.signals if s.pid == page.pid and s.name in
             ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")]  # fmt: skip
    if stops:
        sent = stops[-1]
        evidence.append(
            f"signal {sent.number} ({sent.name}) from pid {sent.sender_pid} ({sent.sender_comm}), "
            f"{in_ms(ev.after.t_ns - sent.t_ns)} ago"
        )
    elif not tracer:
        missing = ("who stopped it: the signal was sent before the tracer was attached, or "
                   "signals are not seen",)  # fmt: skip
    evidence.append(f"its last heartbeat was {page.heartbeat_ms} ms ago")
    return Finding("stopped", tuple(evidence), missing)


def _preemptors(ev: Evidence, tid: int, cpu: int) -> str:
    """Who had the core, as far as it is known; "" if it is not."""
    seen = ev.kernel_thread(tid)
    if seen is not None:
        earlier = {one.tid: one.ns for one in seen[0].preempted_by}
        gained = [(one.ns - earlier.get(one.tid, 0), one) for one in seen[1].preempted_by]
        top = sorted((g for g in gained if g[0] > 0), key=lambda g: -g[0])[:3]
        if top:
            return ", ".join(f"{one.comm} (pid {one.pid}) {in_ms(ns)}" for ns, one in top)
    users = []
    for other, (name, core, ns) in ev.after.cores.items():
        used = ns - ev.before.cores.get(other, (name, core, ns))[2]
        if other != tid and core == cpu and used > 0:
            users.append((used, name, other))
    return ", ".join(f"{name} (tid {other}) {in_ms(ns)}"
                     for ns, name, other in sorted(users, reverse=True)[:3])  # fmt: skip


def _waited_ns(ev: Evidence, before: Thread, after: Thread) -> int:
    """Ready, without a core. /proc counts a wait when it ends, and behind a real-time process it
    may last over both moments; eBPF counts the present one as well."""
    ran = after.on_cpu_ns - before.on_cpu_ns
    if before.state == after.state == "R" and ran < STARVED * ev.window_ns:
        return ev.window_ns - ran
    counted = after.waiting_ns - before.waiting_ns
    seen, window_ns = ev.kernel_thread(after.tid), ev.kernel_window_ns
    if seen is None or window_ns < LEAST_OF_WINDOW * ev.window_ns:
        return counted
    in_kernel = (seen[1].waiting_ns - seen[0].waiting_ns) * ev.window_ns // window_ns
    return min(max(counted, in_kernel), ev.window_ns - ran)  # not the same time as ours


def preempted(ev: Evidence, page: Page, tid: int) -> Finding | None:
    pair = ev.threads(page.pid, tid)
    if pair is None:
        return None
    before, after = pair
    waited = _waited_ns(ev, before, after)
    if waited < PREEMPTED * ev.window_ns:
        return None
    who = _preemptors(ev, tid, after.cpu)
    held = min(waited, ev.window_ns)  # of a wait that began before, /proc counts all
    evidence = [
        f"thread {tid} was ready to run and had no core for {share(held, ev.window_ns)}, "
        f"and ran {in_ms(after.on_cpu_ns - before.on_cpu_ns)}"
    ]
    if who:
        evidence.append(f"on core {after.cpu} ran meanwhile: {who}")
    missing = (
        () if who else ("who had the core: needs the kernel's view, or both moments' threads",)
    )
    return Finding("preempted", tuple(evidence), missing)


def registrations(ev: Evidence, page: Page) -> Finding | None:
    """Memory that is locked, mapped or registered for much of the time, by any of its threads."""
    spent: dict[str, tuple[int, int]] = {}
    for tid in ev.after.processes[page.pid].threads:
        seen = ev.kernel_thread(tid)
        if seen is None:
            continue
        for name, (calls, ns) in seen[1].syscalls.items():
            if name in REGISTERS:
                calls0, ns0 = seen[0].syscalls.get(name, (0, 0))
                had = spent.get(name, (0, 0))
                spent[name] = (had[0] + calls - calls0, had[1] + ns - ns0)
        if seen[1].syscall in REGISTERS:
            inside = ev.after.kernel.t_ns - max(seen[1].syscall_since_ns, ev.before.kernel.t_ns)
            had = spent.get(seen[1].syscall, (0, 0))
            spent[seen[1].syscall] = (had[0], had[1] + max(0, inside))
    total = sum(ns for _, ns in spent.values())
    if total < REGISTERING * ev.window_ns:
        return None
    parts = sorted(
        ((ns, calls, name) for name, (calls, ns) in spent.items() if ns > 0), reverse=True
    )
    return Finding(
        "memory_registration",
        tuple(f"{calls} calls of {name}: {share(ns, ev.window_ns)}"
              for ns, calls, name in parts[:3]),
    )  # fmt: skip


def thread_finding(ev: Evidence, page: Page, tid: int) -> Finding:
    """What the thread is at that should have posted the operation."""
    trouble = preempted(ev, page, tid)
    if trouble is not None:
        return trouble
    trouble = registrations(ev, page)
    if trouble is not None:
        return trouble
    pair = ev.threads(page.pid, tid)
    if pair is None:
        return Finding("unknown", (), (f"thread {tid}: /proc shows nothing of it",))
    before, after = pair
    on_cpu = after.on_cpu_ns - before.on_cpu_ns
    line, why_not = ev.python_line(page.pid, tid)
    at = (f"at {line}",) if line else ()
    missing = () if line else (why_not,)
    faults = _faults(ev, before, after)
    if faults is not None:
        return Finding("page_faults", (*faults, *at), missing)
    if on_cpu >= BUSY * ev.window_ns:
        return _computing(ev, before, after, at, missing)
    if _has_just_gone_on(ev, before, after, on_cpu):
        gone = ("the Python line: it has gone on since",)
        return process_trouble(ev.first, page) or _asleep(ev, ev.before, before, (), gone)
    if after.state == "R":
        return _computing(ev, before, after, at, missing)
    return _asleep(ev, ev.after, after, at, missing)


def _has_just_gone_on(ev: Evidence, before: Thread, after: Thread, on_cpu: int) -> bool:
    """It slept or was stopped for most of the time, and is at something else at the second moment.

    A sample of eBPF is some milliseconds older than the look at /proc: one that has the thread on
    a core, or still in the sleep of the first moment, is of before it came to what it is at now.
    """
    if before.state not in "SDTt":
        return False
    slept_ns = ev.window_ns - on_cpu - (after.waiting_ns - before.waiting_ns)
    if after.state == "R":
        return slept_ns >= BUSY * ev.window_ns
    seen = ev.kernel_thread(after.tid)
    if after.syscall == before.syscall or seen is None:
        return False
    is_older = seen[1].state == "R" or seen[1].since_ns == seen[0].since_ns
    began_ns = ev.after.kernel.t_ns if is_older else seen[1].since_ns
    present_ns = max(0, ev.after.t_ns - max(began_ns, ev.before.t_ns))
    return 2 * present_ns < slept_ns


def _faults(ev: Evidence, before: Thread, after: Thread) -> tuple[str, ...] | None:
    major = after.major_faults - before.major_faults
    minor = after.minor_faults - before.minor_faults
    window_ms = ev.window_ns / 1e6
    in_kernel = after.system_ticks - before.system_ticks > after.user_ticks - before.user_ticks
    if major > 0.05 * window_ms:
        return (f"{major} page faults read from disk in {window_ms:.0f} ms",)
    if minor > FAULTS_PER_MS * window_ms and in_kernel:
        return (f"{minor} page faults in {window_ms:.0f} ms",)
    return None


def _thread_of(moment: Moment, page: Page) -> Thread | None:
    """The thread that should go on."""
    process = moment.processes.get(page.pid)
    return process.threads.get(page.caller or page.pid) if process is not None else None


def is_running(moment: Moment, page: Page) -> bool:
    """The thread that should go on is, as far as one look tells; in the kernel perhaps."""
    thread = _thread_of(moment, page)
    return thread is not None and thread.state in "RD"


def asleep_ns(moment: Moment, page: Page) -> int:
    """How long the thread that should go on has been in the sleep, or stop, that /proc shows.

    0: it is in none, or eBPF does not know. A sample of eBPF is some milliseconds older than the
    look at /proc: it is of the same sleep if its stack has the function that /proc names.
    """
    thread = _thread_of(moment, page)
    seen = moment.kernel.threads.get(thread.tid) if thread is not None else None
    if thread is None or seen is None or "R" in (thread.state, seen.state):
        return 0
    return moment.t_ns - seen.since_ns if thread.wait_channel in seen.stack else 0


def is_in_kernel(ev: Evidence, page: Page) -> bool:
    """The thread that should go on spends its time in system calls: it pays to see in which."""
    pair = ev.threads(page.pid, page.caller or page.pid)
    if pair is None:
        return False
    before, after = pair
    system = after.system_ticks - before.system_ticks
    busy = after.on_cpu_ns - before.on_cpu_ns >= BUSY * ev.window_ns
    return after.state == "D" or (busy and system >= after.user_ticks - before.user_ticks)


def _computing(
    ev: Evidence, before: Thread, after: Thread, at: tuple[str, ...], missing: tuple[str, ...]
) -> Finding:
    user = (after.user_ticks - before.user_ticks) * 1000 // CLOCK_TICKS
    system = (after.system_ticks - before.system_ticks) * 1000 // CLOCK_TICKS
    on_cpu = after.on_cpu_ns - before.on_cpu_ns
    ran = (
        f"thread {after.tid} ran {share(on_cpu, ev.window_ns)} ({user} ms user, {system} ms system)"
    )
    return Finding("computing", (ran, *at), missing)


def _asleep(
    ev: Evidence, moment: Moment, thread: Thread, at: tuple[str, ...], missing: tuple[str, ...]
) -> Finding:
    """What it slept in at this one of the two moments."""
    call = syscall_name(thread.syscall)
    seen = moment.kernel.threads.get(thread.tid)
    where = call or thread.wait_channel
    asleep = f"thread {thread.tid} {'was' if moment is ev.before else 'is'} asleep"
    evidence = [f"{asleep} (state {thread.state})" + (f" in {where}" if where else "")]
    if seen is not None and seen.state != "R":
        evidence[0] += f" for {in_ms(moment.t_ns - seen.since_ns)}"
        if seen.stack:
            evidence.append("kernel stack: " + " < ".join(seen.stack[:6]))
    elif thread.wait_channel and call:
        evidence.append(f"kernel function: {thread.wait_channel}")
    evidence.extend(at)
    if call in SLEEPS or (call in SELECTS and thread.syscall_arguments[:1] == (0,)):
        return Finding("sleeping", tuple(evidence), missing)
    if not call:
        cause = "sleeping" if "nanosleep" in thread.wait_channel else "blocked"
        return Finding(cause, tuple(evidence), missing)
    return Finding("blocked" if call in WAITS else "slow_syscall", tuple(evidence), missing)
