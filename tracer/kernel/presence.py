"""Warn of processes, ports and network namespaces that a filter names and that are not there, or out of sight."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from tracer.kernel import host
from tracer.kernel.processes import PROC, Process, pids, process_of
from tracer.model.filters import Filter, collapsed, kernel_name

_MAX_LINES = 4
_MAX_NAMES = 3
_MAX_PORTS = 16
"""Ports that may be process ids, by mistake: more are not typed one by one."""


_HIDES = (
    "this PID namespace hides processes of the host, and their connections that hang or wait "
    "(docker run --pid=host; in a pod, hostPID: true)"
)


def absent(wanted: Filter, proc: Path = PROC, *, waits: bool = False) -> list[str]:
    """A warning for each, with a command to type, and one in a PID namespace that hides processes of the host.

    Needs the privileges of tracing.

    waits: the run goes on, so that processes that start later are found.
    """
    lines = [line for pid in sorted(wanted.pids) if (line := _about_process(pid, proc))]
    lines += _about_names(wanted.comms, proc, waits=waits)
    if wanted.netns:
        from tracer.kernel.sockets import namespaces

        here = namespaces(proc)
        lines += [
            f"no process is in network namespace {netns} now (lsns -t net shows all)"
            for netns in sorted(wanted.netns - here.keys())
        ]
    lines += _about_ports(wanted, proc)
    more = len(lines) - _MAX_LINES
    if more > 0:
        lines[_MAX_LINES:] = [f"and {more} more that --pid, --comm or --netns names"]
    return [_HIDES, *lines] if host.is_in_pid_namespace(proc) else lines


def _about_process(pid: int, proc: Path) -> str:
    """Empty for a process that exists."""
    try:
        status = (proc / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return f"no process has the id {pid} now (pgrep -l NAME shows ids)"
    except OSError:  # not permitted
        return ""
    process = next((line.split()[1] for line in status.splitlines() if line.startswith("Tgid:")), str(pid))
    if process == str(pid):
        return ""
    return f"{pid} is a thread of process {process}, which has its sockets (--pid {process})"


def _about_names(wanted: Iterable[str], proc: Path, *, waits: bool) -> Iterator[str]:
    """A warning for each name that no process has, with similar names."""
    names = _names(proc) if wanted else set()
    for name in sorted(wanted):
        if names.isdisjoint((name, kernel_name(name))):
            waiting = "; waiting for one" if waits else ""
            hint = _similar(name, names) or "ps -eo pid,comm shows names"
            yield f"no process is named {name} now{waiting} ({hint})"


def _names(proc: Path) -> set[str]:
    """The names of all processes and of their programs, except this process."""
    processes = [process_of(pid, proc) for pid in pids(proc) if pid != os.getpid()]
    return {name for process in processes if process is not None for name in (process.comm, process.exe) if name}


def _similar(name: str, names: Iterable[str]) -> str:
    """Names that continue this one, as options: `--comm php8.2`. Names with a comma cannot be typed."""
    lowered = name.lower()
    found = sorted(each for each in names if each.lower().startswith(lowered) and "," not in each)
    return f"similar: --comm {shlex.quote(','.join(found[:_MAX_NAMES]))}" if found else ""


def _about_ports(wanted: Filter, proc: Path) -> Iterator[str]:
    """A warning for each port that no socket uses and that is the id of a process."""
    typed = {port for ports in (wanted.ports, wanted.lports, wanted.rports) for port in collapsed(ports)}
    numbers = sorted(port for port in typed if isinstance(port, int))
    if len(numbers) > _MAX_PORTS:
        return
    processes = {port: process for port in numbers if (process := _program(port, proc)) is not None}
    if not processes:
        return
    used = ports_in_use(proc)
    for port in sorted(processes.keys() - used):
        name = processes[port].comm
        yield f"no socket uses port {port} now, but process {port} is {name} (for its connections: --pid {port})"


def _program(pid: int, proc: Path) -> Process | None:
    """The process with this pid, unless it is a thread of the kernel: these have no program."""
    try:
        os.readlink(proc / str(pid) / "exe")
    except FileNotFoundError:
        return None
    except OSError:  # a program that we may not look at
        pass
    return process_of(pid, proc)


def ports_in_use(proc: Path = PROC) -> set[int]:
    """The ports of either end of every TCP socket, in every network namespace that has a process."""
    from tracer.kernel.sockets import namespaces

    used: set[int] = set()
    for files in namespaces(proc).values():
        for file in files:
            directory = Path(file).parent.parent / "net"
            try:
                for name in ("tcp", "tcp6"):
                    used.update(_ports_of(directory / name))
            except OSError:  # ended, or the name of a namespace: another process leads into it, too
                continue
            break
    return used


def _ports_of(table: Path) -> Iterator[int]:
    """The ports in /proc/net/tcp (get_tcp4_sock(), net/ipv4/tcp_ipv4.c): `0: 0100007F:0CEA 00000000:0000 0A …`."""
    with table.open(encoding="ascii") as lines:
        next(lines, None)
        for line in lines:
            _, local, remote, _ = line.split(maxsplit=3)
            yield int(local.rpartition(":")[2], 16)
            yield int(remote.rpartition(":")[2], 16)
