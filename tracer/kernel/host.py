"""What this machine says about itself: kernel release, clocks, jiffies, namespaces' counters."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from tracer.errors import TcpwatchError
from tracer.kernel.wire import text

_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h; Python has no name for it
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_PROC = Path("/proc")

# Bits of include/uapi/linux/capability.h.
_NEEDED = {"CAP_BPF": 39, "CAP_PERFMON": 38}
_SYS_ADMIN = 21


def hz() -> int:
    """Jiffies per second. The coarse clock advances once a jiffy, and its resolution is KTIME_LOW_RES = 1/HZ."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def kernel_release() -> str:
    """As `uname -r`."""
    return os.uname().release


def name() -> str:
    """As `uname -n`."""
    return text(os.fsencode(os.uname().nodename))


_SYSCTLS = (
    "tcp_retries1", "tcp_retries2", "tcp_syn_retries", "tcp_orphan_retries", "tcp_early_retrans",
    "tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes", "tcp_rto_max_ms", "tcp_rto_min_us",
)  # fmt: skip


def tcp_sysctls() -> dict[str, int]:
    """The net.ipv4 settings that decide when TCP gives up, of the host's network namespace; absent ones left out.

    /proc/sys/net shows the namespace of the process that reads it (net_ctl_header_lookup(), net/sysctl_net.c). So
    there are none where we are in another network namespace than PID 1, as with systemd's PrivateNetwork=.
    """
    if not _shares_network_with_init():
        return {}
    values = {}
    for sysctl in _SYSCTLS:
        try:
            values[f"net.ipv4.{sysctl}"] = int((_PROC / "sys/net/ipv4" / sysctl).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return values


def _shares_network_with_init() -> bool:
    """True also where the kernel does not let us look."""
    try:
        return (_PROC / "1/ns/net").stat().st_ino == (_PROC / "self/ns/net").stat().st_ino
    except OSError:
        return True


def cpu_seconds() -> float:
    """What this process has used so far, in user and kernel mode, children not counted."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_bytes() -> int:
    """The most that this process had resident, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def lockdown() -> str:
    """`none`, `integrity`, `confidentiality`, or `` where the kernel does not say."""
    try:
        text = _LOCKDOWN.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text.partition("[")[2].partition("]")[0]


def missing_capabilities() -> list[str]:
    """Of those without which no tracing program can be loaded (5.8; capabilities(7)), as `CAP_BPF`. Root has them."""
    effective = _effective_capabilities()
    if effective >> _SYS_ADMIN & 1:
        return []
    return [name for name, bit in _NEEDED.items() if not effective >> bit & 1]


def _effective_capabilities() -> int:
    for line in (_PROC / "self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def require_privilege() -> None:
    """Raise unless we may load BPF programs."""
    if missing := missing_capabilities():
        what = f"tracing the kernel needs root, or {' and '.join(_NEEDED)}"
        if len(missing) < len(_NEEDED):
            what += f", of which {missing[0]} is missing"
        raise TcpwatchError(what, hint="run it again with sudo")
    if lockdown() == "confidentiality":
        raise TcpwatchError(
            "the kernel is locked down (lockdown=confidentiality): no BPF program may read its memory",
            hint="boot with lockdown=integrity or without lockdown; cat /sys/kernel/security/lockdown",
        )
