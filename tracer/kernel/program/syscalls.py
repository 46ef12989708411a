"""bpf(2) and perf_event_open(2): create maps, load and attach functions, read iterators.

Descriptors are close-on-exec. The kernel removes an object with its last descriptor. Failures raise OSError.
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
"""The descriptors that a run may need: sixty for a program, and some for /proc and recordings."""
_TRACE_RAW_TP, _TRACE_ITER = 23, 28  # enum bpf_attach_type

_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}  # bpf, perf_event_open
_LICENSE = b"GPL"  # the licence of bpf/, which the helpers demand
_MAX_NAME = 15  # BPF_OBJ_NAME_LEN without its NUL
_LOG_BYTES = (1 << 24) - 1  # the maximum of every kernel; a smaller log lacks its end, which has the reason
# An iterator returns up to its buffer of 8 pages at once (bpf_seq_read(), kernel/bpf/bpf_iter.c).
_ITERATOR_BYTES = 8 * mmap.PAGESIZE
# What the verifier returns for an instruction, a map or a kfunc that it does not accept (bpf_check()).
_CODE_ERRORS = {errno.EACCES, errno.EINVAL, errno.E2BIG, errno.EBADF, errno.EFAULT, errno.ENOENT, errno.ERANGE}
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
_MAX_TRIES = 5  # a signal ends the verifier with EAGAIN (bpf_check(), kernel/bpf/verifier.c)

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE, _PERF_EVENT_IOC_SET_BPF = 0x2400, 0x40042408  # include/uapi/linux/perf_event.h

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """The kernel refused a function. log: the output of the verifier."""

    log = ""

    @property
    def is_for_its_code(self) -> bool:
        """Whether the function itself was refused, and no privilege or resource is missing."""
        return self.errno in _CODE_ERRORS


def create_map(name: str, wanted: Map) -> int:
    """Create a map, and return its descriptor."""
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
    """Load a function, and return its descriptor. Raises Refused.

    kind: KPROBE, RAW_TRACEPOINT or TRACING. For TRACING, iterates is the BTF id of an iterator (bpf_iter_tcp), or
    traces that of a raw tracepoint (btf_trace_tcp_probe).
    """
    attach = (_TRACE_ITER, iterates) if iterates else (_TRACE_RAW_TP, traces) if traces else (0, 0)
    try:
        return _load(name, kind, code, attach, None)
    except OSError as error:
        # Again with a log, which makes the verifier slower.
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
    """Attach a function to a raw tracepoint, and return the descriptor of the link."""
    tracepoint = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QIxxxx", ctypes.addressof(tracepoint), function))


def open_typed_tracepoint(_name: str, function: int) -> int:
    """As open_raw_tracepoint(), for a function with typed arguments, which was loaded for one tracepoint."""
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QIxxxx", 0, function))


def open_kprobe(symbol: str, function: int) -> int:
    """Attach a function to the entry of a kernel function: perf's kprobe PMU (4.17), which needs no tracefs."""
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
    """Create the link of an iterator function."""
    return _bpf(_LINK_CREATE, struct.pack("<IIIIQII", function, 0, _TRACE_ITER, 0, 0, 0, 0))


def create_iterator(link: int) -> int:
    """Create an iterator: a file that runs the function for each object when it is read."""
    return _bpf(_ITER_CREATE, struct.pack("<II", link, 0))


def read_iterator(link: int) -> bytes:
    """Run the function of a link for each object, and return all that it writes."""
    iterator = create_iterator(link)
    parts: list[bytes] = []
    try:
        while True:
            with suppress(BlockingIOError):  # a million objects without output
                part = os.read(iterator, _ITERATOR_BYTES)
                if not part:
                    return b"".join(parts)
                parts.append(part)
    finally:
        os.close(iterator)


def try_load() -> None:
    """Load a program that does nothing. Raises OSError if the kernel refuses it."""
    os.close(_load("try_load", RAW_TRACEPOINT, _RETURN_0, (0, 0), None))


def raise_limits() -> None:
    """Raise the limits on locked memory and open files.

    Before Linux 5.11 maps and programs count against RLIMIT_MEMLOCK, 64 KiB by default.
    """
    with suppress(OSError, ValueError):  # without CAP_SYS_RESOURCE
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for limit in (max(hard, MIN_FILES), hard):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(limit, MIN_FILES)), limit))
                return


def _bpf(command: int, attr: bytes) -> int:
    for _ in range(_MAX_TRIES - 1):
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
    return name.encode()[:_MAX_NAME]
