"""This machine: kernel release, HZ, sysctls, lockdown, and whether it permits tracing."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from tracer.kernel import privileges
from tracer.kernel.program import syscalls
from tracer.kernel.wire import text
from tracer.model.errors import TcpwatchError

_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h; Python has no name for it
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_PROC = Path("/proc")

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h

# Bits of include/uapi/linux/capability.h.
_NEEDED = {"CAP_BPF": 39, "CAP_PERFMON": 38}
_TO_ACT = {"CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19}
_SYS_ADMIN = 21


def hz() -> int:
    """Jiffies per second. The resolution of the coarse clock is one jiffy (KTIME_LOW_RES)."""
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
    """The net.ipv4 settings that decide when TCP gives up, in the host's network namespace, as far as they exist.

    /proc/sys/net shows the namespace of the process that reads it (net_ctl_header_lookup(), net/sysctl_net.c). The
    result is empty in another network namespace than that of PID 1, as with systemd's PrivateNetwork=.
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
    """True also if the kernel does not permit the comparison."""
    try:
        return _netns_of(1) == _netns_of("self")
    except OSError:
        return True


def _netns_of(process: int | str) -> int:
    return (_PROC / str(process) / "ns/net").stat().st_ino


@cache
def own_netns() -> int:
    """Inode of the network namespace of a login shell on this host, that of PID 1; 0: unknown.

    A service has a namespace of its own with systemd's PrivateNetwork=. With a terminal in another namespace than
    that of PID 1, nobody knows in which of them commands are typed.
    """
    own = _netns_of("self")
    try:
        init = _netns_of(1)
    except OSError:  # not permitted in some sandboxes
        return own
    return init if init == own or not _has_terminal() else 0


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def cpu_seconds() -> float:
    """CPU time of this process so far, user and system, without children."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_bytes() -> int:
    """Peak resident memory of this process, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def lockdown() -> str:
    """The kernel's lockdown mode: `none`, `integrity`, `confidentiality`; empty if unknown."""
    try:
        text = _LOCKDOWN.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text.partition("[")[2].partition("]")[0]


def missing_capabilities() -> list[str]:
    """The capabilities that tracing needs (capabilities(7), 5.8) and this process lacks, as `CAP_BPF`."""
    try:
        effective = privileges.effective()
    except OSError:  # a seccomp filter refuses capget(2): try bpf(2) instead
        return []
    if effective >> _SYS_ADMIN & 1:
        return []
    return [name for name, bit in _NEEDED.items() if not effective >> bit & 1]


def how_to_get(capabilities: Sequence[str], command: str = "run it again with sudo") -> str:
    """What helps where these are missing. command: with sudo, which gives root nothing more."""
    if os.geteuid() != 0:
        return command
    options = " ".join(f"--cap-add={each.removeprefix('CAP_')}" for each in capabilities)
    return f"root lacks capabilities here, as in a container; start that with {options}"


def require_privilege() -> None:
    """Raise TcpwatchError unless this process may load BPF programs and read /proc."""
    if missing := missing_capabilities():
        what = f"tracing the kernel needs root, or {' and '.join(_NEEDED)}"
        if len(missing) < len(_NEEDED):
            what += f"; {missing[0]} is missing"
        raise TcpwatchError(what, hint=how_to_get(missing))
    if lockdown() == "confidentiality":
        raise TcpwatchError(
            "the kernel is locked down (lockdown=confidentiality): no BPF program may read its memory",
            hint="boot with lockdown=integrity or without lockdown; cat /sys/kernel/security/lockdown",
        )
    require_proc()
    require_bpf()


def require_net_admin() -> None:
    """Raise TcpwatchError unless this process may end connections (sock_diag_destroy(), net/core/sock_diag.c)."""
    require_for("ending connections", "CAP_NET_ADMIN")


def require_for(what: str, *capabilities: str) -> None:
    """Raise TcpwatchError unless this process has all these capabilities. what: `ending connections`."""
    with suppress(OSError):  # a seccomp filter refuses capget(2): try it
        effective = privileges.effective()
        for name in capabilities:
            if not effective >> _TO_ACT[name] & 1:
                missing = ", which is missing" if len(capabilities) == 1 else f"; {name} is missing"
                raise TcpwatchError(
                    f"{what} needs root, or {' and '.join(capabilities)}{missing}", hint=how_to_get([name])
                )


def require_proc() -> None:
    """Raise TcpwatchError if /proc is not mounted, or belongs to another PID namespace."""
    if (_PROC / "self/ns/pid").exists():
        return
    if (_PROC / "version").exists():
        raise TcpwatchError(
            "/proc does not show this process: it was mounted for another PID namespace",
            hint="mount -t proc proc /proc; in a container: docker run --pid=host, or hostPID: true",
        )
    raise TcpwatchError("/proc is not mounted", hint="mount -t proc proc /proc")


def is_in_pid_namespace(proc: Path = _PROC) -> bool:
    """Whether this process is in another PID namespace than the host's first one. False if that is unknown.

    Walks over processes see the reader's namespace and those below it (init_seq_pidns(), kernel/bpf/task_iter.c).
    """
    try:
        return (proc / "self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def hidden_processes() -> str:
    """The option of /proc that hides processes of other users from this one: `hidepid=ptraceable`. Empty without one.

    CAP_SYS_PTRACE sees them all. Before that, hidepid 1 and 2 exempt a group, root's unless gid= names another
    (has_pid_permissions(), fs/proc/base.c).
    """
    with suppress(OSError):  # a seccomp filter refuses capget(2)
        if privileges.effective() >> _TO_ACT["CAP_SYS_PTRACE"] & 1:
            return ""
    options = _options_of_proc()
    hides = options.get("hidepid", "0")
    is_exempt = int(options.get("gid", "0")) in {os.getegid(), *os.getgroups()}
    if hides in ("0", "off") or (is_exempt and hides not in ("4", "ptraceable")):
        return ""
    return f"hidepid={hides}"


def _options_of_proc() -> dict[str, str]:
    """The options of what is mounted last on /proc, from /proc/self/mountinfo. Empty if that is unknown."""
    options = ""
    try:
        lines = os.fsdecode((_PROC / "self/mountinfo").read_bytes()).splitlines()
    except OSError:
        return {}
    for line in lines:
        of_mount, _, of_filesystem = line.partition(" - ")
        if of_mount.split(" ")[4] == str(_PROC):
            options = of_filesystem.split(" ", 2)[2]
    return {name: value for name, _, value in (each.partition("=") for each in options.split(","))}


def may_enter_namespaces() -> bool:
    """Whether this process may enter network namespaces, by entering its own again (netns_install() of Linux)."""
    with (_PROC / "thread-self/ns/net").open("rb") as namespace:
        return bool(ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) == 0)


def require_bpf() -> None:
    """Raise TcpwatchError if the kernel refuses to load an empty program."""
    syscalls.raise_limits()
    try:
        syscalls.try_load()
    except OSError as error:
        what = f"the kernel refuses to load BPF programs: {error.strerror}"
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise TcpwatchError(what, hint="free -m; ulimit -n; ulimit -l") from error
        if _is_in_user_namespace():
            raise TcpwatchError(
                f"{what} (this is a user namespace, as in a rootless container)",
                hint="run tcpwatch on the host, or in a container that root starts",
            ) from error
        if _is_under_seccomp():
            raise TcpwatchError(
                f"{what} (a seccomp filter is active)",
                hint="docker run --security-opt seccomp=unconfined --cap-add BPF --cap-add PERFMON; "
                "systemd: SystemCallFilter=bpf perf_event_open",
            ) from error
        if error.errno == errno.EPERM and _counts_locked_memory():
            raise TcpwatchError(
                f"{what} (before Linux 5.11 they count against the limit of locked memory)",
                hint="ulimit -l unlimited",
            ) from error
        hint = "grep CONFIG_BPF_SYSCALL /boot/config-$(uname -r)" if error.errno == errno.ENOSYS else "dmesg | tail"
        raise TcpwatchError(what, hint=hint) from error


def _counts_locked_memory() -> bool:
    """Whether this kernel counts BPF programs and maps against RLIMIT_MEMLOCK, and that is not unlimited.

    Linux 5.11 replaced that by the memory control group (bpf_prog_charge_memlock(), kernel/bpf/syscall.c).
    """
    major, minor = map(int, re.findall(r"\d+", kernel_release())[:2])
    return (major, minor) < (5, 11) and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY


def _is_in_user_namespace() -> bool:
    """Whether the user ids are mapped. The initial user namespace maps each one to itself."""
    return _first_words(_PROC / "self/uid_map") not in ([], ["0", "0", "4294967295"])


def _is_under_seccomp() -> bool:
    try:
        lines = (_PROC / "self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split() == ["Seccomp:", "2"] for line in lines)  # SECCOMP_MODE_FILTER


def _first_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").partition("\n")[0].split()
    except OSError:
        return []
