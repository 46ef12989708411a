"""CPU time and memory of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tracer.model.errors import TcpwatchError

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1024 * 1024
_QUIET_S = 0.25

TCPWATCH = (sys.executable, "-m", "tracer")
"""tcpwatch from this tree; wants `environment()`."""


def environment(**more: str) -> dict[str, str]:
    """Ours, and what tcpwatch needs to be found; Python keeps what it compiles, as for anybody."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**ours, "PYTHONPATH": str(ROOT), **more}


def dies_with_us(argv: Sequence[str | Path]) -> list[str]:
    """The command as one that the kernel kills when we end."""
    # The kernel tells of no parent that ended before it was asked to: then the parent is another one already.
    asked = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
    return [*asked, *map(str, argv)]


@contextmanager
def one_processor() -> Iterator[None]:
    """Processes started in the block share one processor with us, and it is never idle while one of them works."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def first_in_line() -> Iterator[None]:
    """Whatever is started meanwhile, and we, run before what else this host does (SCHED_RR)."""
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)


@dataclass(frozen=True)
class Memory:
    """Resident memory in bytes. private: what would come free if the process ended."""

    private: int
    total: int


def memory_of(pid: int) -> Memory:
    """As /proc/PID/smaps_rollup has it now."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value, _ = line.split()
        kib[name.rstrip(":")] = int(value)
    return Memory(1024 * (kib["Private_Clean"] + kib["Private_Dirty"]), 1024 * kib["Rss"])


def _task_cpu_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[0])
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended
        return 0


def cpu_s(pid: int) -> float:
    """Processor time in seconds of a process that runs: its threads that do, and its children that ended."""
    # Nanoseconds; /proc/PID/stat has hundredths of a second, but also cutime and cstime.
    tasks = Path(f"/proc/{pid}/task").iterdir()
    own = sum(map(_task_cpu_ns, tasks)) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def wait_until_idle(pid: int) -> float:
    """Until it uses less than a tenth of a processor: it has done what there was to do. Returns when that was so."""
    while True:
        before_s, began = cpu_s(pid), time.monotonic()
        time.sleep(_QUIET_S)
        if cpu_s(pid) - before_s < _QUIET_S / 10:
            return began


@dataclass(frozen=True)
class Usage:
    """What a command took from its start to its end; peak_bytes: the most memory that was resident."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def measured(argv: Sequence[str | Path], stdin: Iterable[bytes] = ()) -> Usage:
    """Run a command to its end, its output thrown away. Raises TcpwatchError where it fails."""
    with tempfile.NamedTemporaryFile() as peak:
        # A process of ours would begin with our own peak: GNU time starts it, which is small itself.
        wall_s, spent_s = _run(["/usr/bin/time", "--format=%M", f"--output={peak.name}", *map(str, argv)], stdin)
        return Usage(wall_s, spent_s, int(peak.read().split()[-1]) * 1024)


def _run(argv: Sequence[str], stdin: Iterable[bytes]) -> tuple[float, float]:
    """Seconds that passed, and of processor time, its children's included."""
    began = time.monotonic()
    with subprocess.Popen(
        dies_with_us(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as process:
        feeder = threading.Thread(target=_feed, args=(process, stdin), daemon=True)
        feeder.start()
        assert process.stderr is not None
        try:
            stderr = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            # What GNU time has started, too: it leads a session of its own.
            os.killpg(process.pid, signal.SIGKILL)
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        feeder.join()
    if process.returncode != 0:
        raise TcpwatchError(f"{' '.join(argv)} failed: {stderr.decode('utf-8', 'replace').strip()[-500:]}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime


def _feed(process: subprocess.Popen[bytes], blocks: Iterable[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin:  # it ended first
        for block in blocks:
            process.stdin.write(block)
