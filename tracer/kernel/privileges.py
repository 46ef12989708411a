"""Drop the capabilities that are no longer needed once every hook is attached."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

# include/uapi/linux/capability.h
_NUMBERS = {"CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_SETPCAP": 8, "CAP_SYS_PTRACE": 19, "CAP_BPF": 39}
_VERSION_3 = 0x20080522
_LAST = 63

# include/uapi/linux/prctl.h
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

TO_NAME_OWNERS = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
"""To read the executable and network namespace of other users' processes, and to find a cgroup by its id."""
TO_BEGIN_FILES = ("CAP_DAC_OVERRIDE",)
"""To create the next recording file in another user's directory."""
TO_WALK = ("CAP_BPF",)
"""To create an iterator from a link: before Linux 6.0 every bpf(2) demands it if kernel.unprivileged_bpf_disabled is
set (__sys_bpf(), kernel/bpf/syscall.c)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def effective() -> int:
    """The effective capabilities of this thread as a bit mask: capget(2). Raises OSError."""
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    _call(ctypes.CDLL(None, use_errno=True).capget(ctypes.byref(header), sets))
    return int(sets[0].effective | sets[1].effective << 32)


def keep_only(capabilities: Iterable[str]) -> None:
    """Drop all other capabilities of this thread and of threads that it starts later: capset(2), prctl(2).

    It adds none. Detaching needs none, because the kernel detaches a program when its descriptors are closed. Raises
    OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = sum(1 << _NUMBERS[name] for name in set(capabilities))
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    _call(libc.capget(ctypes.byref(header), sets))
    # execve() could regain what is in the bounding set. Without CAP_SETPCAP, no_new_privs alone prevents that.
    if sets[0].effective >> _NUMBERS["CAP_SETPCAP"] & 1:
        for number in range(_LAST + 1):
            if not kept >> number & 1 and libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
                _call(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
    with suppress(OSError):  # a kernel without ambient capabilities
        _call(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for half, part in enumerate(sets):
        part.permitted &= kept >> 32 * half & 0xFFFFFFFF
        part.effective &= part.permitted
        part.inheritable = 0
    _call(libc.capset(ctypes.byref(header), sets))
    _call(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def is_free(action: Callable[[], None]) -> bool:
    """Whether an action succeeds without any capability. Tries it in a thread that drops all of its own."""
    succeeded = False

    def try_it() -> None:
        nonlocal succeeded
        with suppress(OSError):
            keep_only(())
            action()
            succeeded = True

    thread = threading.Thread(target=try_it)
    with suppress(RuntimeError):  # no thread can be started: then assume that it needs some
        thread.start()
        thread.join()
    return succeeded


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
