"""The capabilities that live tracing needs: what docs/requirements.md says, held by test_every_kernel.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tracer.kernel import host
from tracer.kernel.probes import kprobes_available

TO_TRACE = {"bpf", "perfmon"}
TO_NAME_OWNERS = {"sys_ptrace", "dac_read_search"}
"""Another user's /proc/PID/exe and /proc/PID/ns/net, and the path of a cgroup by its number."""
TO_SEE_KEEPALIVES = {"syslog"}
"""The address of a timer's function, from /proc/kallsyms. For kprobes a kernel with Debian's default of
kernel.perf_event_paranoid=3 wants CAP_SYS_ADMIN; with 2, kprobes do without either."""


def least() -> set[str]:
    """All that this kernel asks for."""
    needed = TO_TRACE | TO_NAME_OWNERS | TO_SEE_KEEPALIVES
    # Until 5.11 BPF maps are counted against RLIMIT_MEMLOCK, which bcc has to raise.
    return needed | {"sys_resource"} if release() < (5, 11) else needed


def kprobes_without_admin() -> bool:
    """Whether CAP_PERFMON is enough for kprobes."""
    paranoid = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text(encoding="ascii"))
    return kprobes_available() and paranoid <= 2


def release() -> tuple[int, int]:
    """Of the running kernel, the first two numbers."""
    major, minor, *_ = host.kernel_release().split(".")
    return int(major), int(minor)


def with_only(capabilities: Iterable[str]) -> list[str]:
    """A command that runs its arguments as root without any other capability."""
    kept = ",".join(["-all", *(f"+{each}" for each in sorted(capabilities))])
    return ["setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}"]


def capabilities(pid: int) -> tuple[set[int], dict[str, str]]:
    """The numbers of the effective capabilities of a process, and its whole /proc/PID/status."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {number for number in range(64) if int(status["CapEff"], 16) >> number & 1}, status
