"""bpf(2) and perf_event_open(2), as far as a program needs them to be loaded and attached.

Descriptors are close-on-exec; what they stand for ends with the last of them. Failures raise OSError.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import struct
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

from tracer.kernel.program.compiled import Map

# include/uapi/linux/bpf.h
_MAP_CREATE, _MAP_UPDATE_ELEM, _PROG_LOAD, _RAW_TRACEPOINT_OPEN = 0, 2, 5, 17
_LINK_CREATE, _ITER_CREATE = 28, 33
KPROBE, RAW_TRACEPOINT, TRACING = 2, 17, 26
"""enum bpf_prog_type."""
RINGBUF = 27
"""enum bpf_map_type."""
MIN_FILES = 1024
"""Descriptors that a run may need: a program has sixty, and /proc and recordings take some more."""
_TRACE_RAW_TP, _TRACE_ITER = 23, 28  # enum bpf_attach_type

_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}  # bpf, perf_event_open
_LICENSE = b"GPL"  # as bpf/ says; the kernel's helpers demand it
_MOST_NAME = 15  # BPF_OBJ_NAME_LEN without its NUL
_LOG_BYTES = (1 << 24) - 1  # the most that every kernel takes; in a smaller one the end is lost, which says why
# An iterator hands over what its buffer of 8 pages holds (bpf_seq_read(), kernel/bpf/bpf_iter.c).
_ITERATOR_BYTES = 8 * mmap.PAGESIZE
# What the verifier answers where an instruction, a map or a kernel function is not what it takes (bpf_check()).
_CODE_ERRORS = {errno.EACCES, errno.EINVAL, errno.E2BIG, errno.EBADF, errno.EFAULT, errno.ENOENT, errno.ERANGE}
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
_TRIES = 5  # the verifier gives up with EAGAIN where a signal comes (bpf_check(), kernel/bpf/verifier.c)

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE, _PERF_EVENT_IOC_SET_BPF = 0x2400, 0x40042408  # include/uapi/linux/perf_event.h

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """The kernel refused a function; `log` is what its verifier printed."""

    log = ""

    @property
    def is_for_its_code(self) -> bool:
        """Whether it was the function itself, and not a privilege or a resource that is missing."""
        return self.errno in _CODE_ERRORS


def create_map(name: str, wanted: Map) -> int:
    """A map's descriptor."""
    attr = struct.pack(
        "<IIIIIII16s",
        wanted.map_type, wanted.key_size, wanted.value_size, wanted.max_entries, wanted.map_flags, 0, 0, _named(name),
    )  # fmt: skip
    return _bpf(_MAP_CREATE, attr)


def update_map(fd: int, key: bytes, value: bytes) -> None:
    """Set one element."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE_ELEM, struct.pack("<IxxxxQQQ", fd, ctypes.addressof(keys), ctypes.addressof(values), 0))


def load(name: str, kind: int, code: bytes, *, iterates: int = 0, traces: int = 0) -> int:
    """A function's descriptor. kind: KPROBE, RAW_TRACEPOINT or TRACING. That last one is for an iterator, whose BTF
    type iterates is (bpf_iter_tcp), or for one raw tracepoint, whose BTF type traces is (btf_trace_tcp_probe).
    Raises Refused.
    """
    attach = (_TRACE_ITER, iterates) if iterates else (_TRACE_RAW_TP, traces) if traces else (0, 0)
    try:
        return _load(name, kind, code, attach, None)
    except OSError as error:
        # Again, for the verifier's words, which cost it time.
        log = ctypes.create_string_buffer(_LOG_BYTES)
        with suppress(OSError):
            return _load(name, kind, code, attach, log)
        refused = Refused(error.errno, error.strerror)
        refused.log = log.value.decode("utf-8", "replace")
        raise refused from error


def _load(name: str, kind: int, code: bytes, attach: tuple[int, int], log: ctypes.Array[ctypes.c_char] | None) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(_LICENSE)
    attr = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(license_),
        1 if log else 0, len(log) if log else 0, ctypes.addressof(log) if log else 0,
        0, 0, _named(name), 0, attach[0],
        0, 0, 0, 0, 0, 0, 0, attach[1],
    )  # fmt: skip
    return _bpf(_PROG_LOAD, attr)


def open_raw_tracepoint(name: str, function: int) -> int:
    """Attach a function: the descriptor that holds it there."""
    tracepoint = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QIxxxx", ctypes.addressof(tracepoint), function))


def open_typed_tracepoint(_name: str, function: int) -> int:
    """The same of a function that was loaded for one raw tracepoint."""
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QIxxxx", 0, function))


def open_kprobe(symbol: str, function: int) -> int:
    """The same, at the entry of a function of the kernel: perf's dynamic PMU (4.17), which needs no tracefs."""
    name = ctypes.create_string_buffer(symbol.encode())
    # struct perf_event_attr: type, size, config, sample_period, sample_type, read_format, flags, wakeup_events,
    # bp_type, config1 = kprobe_func, config2 = probe_offset
    attr = struct.pack(
        "<IIQQQQQIIQQ",
        int(_KPROBE_PMU.read_text(encoding="ascii")),
        72,
        0,
        1,
        0,
        0,
        0,
        1,
        0,
        ctypes.addressof(name),
        0,
    )
    every_process, first_cpu, no_group = ctypes.c_long(-1), ctypes.c_long(0), ctypes.c_long(-1)
    event = _call(1, ctypes.c_char_p(attr), every_process, first_cpu, no_group, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC))
    try:
        ioctl(event, _PERF_EVENT_IOC_SET_BPF, function)
        ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except BaseException:
        os.close(event)
        raise
    return event


def link_iterator(function: int) -> int:
    """What makes iterators of a function."""
    return _bpf(_LINK_CREATE, struct.pack("<IIIIQII", function, 0, _TRACE_ITER, 0, 0, 0, 0))


def create_iterator(link: int) -> int:
    """A file whose reading runs the function for each object of the kind."""
    return _bpf(_ITER_CREATE, struct.pack("<II", link, 0))


def read_iterator(link: int) -> bytes:
    """All that the function behind a link writes when it has run for each object of the kind."""
    iterator = create_iterator(link)
    parts: list[bytes] = []
    try:
        while True:
            with suppress(BlockingIOError):  # a million objects in a row of which it wrote nothing
                part = os.read(iterator, _ITERATOR_BYTES)
                if not part:
                    return b"".join(parts)
                parts.append(part)
    finally:
        os.close(iterator)


def try_load() -> None:
    """Load a program that does nothing. Raises OSError where the kernel lets us load none."""
    os.close(_load("try_load", RAW_TRACEPOINT, _RETURN_0, (0, 0), None))


def raise_limits() -> None:
    """Raise the limits of this process that BPF exceeds.

    Until 5.11 maps and programs are counted against RLIMIT_MEMLOCK, which is 64 KiB by default.
    """
    with suppress(OSError, ValueError):  # without CAP_SYS_RESOURCE: then the kernel refuses what is too much
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for limit in (max(hard, MIN_FILES), hard):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(limit, MIN_FILES)), limit))
                return


def _bpf(command: int, attr: bytes) -> int:
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return _call(0, command, ctypes.c_char_p(attr), ctypes.c_long(len(attr)))
    return _call(0, command, ctypes.c_char_p(attr), ctypes.c_long(len(attr)))


def _call(which: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(_SYSCALLS[platform.machine()][which]), *arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _named(name: str) -> bytes:
    return name.encode()[:_MOST_NAME]
