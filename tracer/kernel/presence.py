"""Warn of processes and network namespaces that a filter names and this host does not have."""

from __future__ import annotations

from pathlib import Path

from tracer.model.filters import Filter

_MAX_LINES = 4


def absent(wanted: Filter, proc: Path = Path("/proc")) -> list[str]:
    """A warning for each, with a command to type. Needs the privileges of tracing."""
    lines = [line for pid in sorted(wanted.pids) if (line := _about_process(pid, proc))]
    if wanted.netns:
        from tracer.kernel.sockets import namespaces

        here = namespaces(proc)
        lines += [
            f"no process is in network namespace {netns} now (lsns -t net shows all)"
            for netns in sorted(wanted.netns - here.keys())
        ]
    more = len(lines) - _MAX_LINES
    return lines if more <= 0 else [*lines[:_MAX_LINES], f"and {more} more that --pid or --netns names"]


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
