"""Struct offsets, enum values and tracepoint arguments from the running kernel's BTF.

The layout of a struct such as `tcp_sock` depends on the point release and the configuration of a kernel. libbpf reads
the BTF; it is a dependency of libbcc, so it is installed wherever bcc is.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing, upgrading

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_BTF_BYTES = 32 << 20  # the maximum that libbpf allocates for a kernel's types
_SYSFS = Path("/sys/kernel")
_HINTS: dict[int | None, str] = {
    errno.EACCES: "run it as root",
    errno.EPERM: "run it as root",
    errno.ENOMEM: "free -m; ulimit -v",
    errno.EMFILE: "ulimit -n 1024",
}

# enum in include/uapi/linux/btf.h
_KIND_PTR, _KIND_ARRAY, _KIND_STRUCT, _KIND_UNION, _KIND_ENUM = 2, 3, 4, 5, 6
_KIND_TYPEDEF, _KIND_VOLATILE, _KIND_CONST, _KIND_RESTRICT = 8, 9, 10, 11
_KIND_FUNC, _KIND_TYPE_TAG, _KIND_ENUM64 = 12, 18, 19
_MEMBER = struct.Struct("<III")  # struct btf_member: name, type, offset
_TRANSPARENT = {_KIND_TYPEDEF, _KIND_VOLATILE, _KIND_CONST, _KIND_RESTRICT, _KIND_TYPE_TAG}


@dataclass(frozen=True, slots=True)
class Member:
    """The place of a struct member: offset and size in bytes; for a bit field, the right shift and the width in bits.

    bits: 0 for a member that is not a bit field.
    """

    offset: int
    size: int
    shift: int = 0
    bits: int = 0


def _unreadable() -> TcpwatchError:
    """The reason why libbpf could not load the kernel's BTF, which it does not return."""
    try:
        VMLINUX.read_bytes()
    except OSError as error:
        hint = _HINTS.get(error.errno, f"ls -l {VMLINUX}")
        return TcpwatchError(f"{VMLINUX} cannot be read: {error.strerror}", hint=hint)
    except MemoryError:
        return _without_memory(str(VMLINUX))
    try:
        mmap.mmap(-1, _BTF_BYTES).close()
    except OSError:
        return _without_memory(str(VMLINUX))
    return TcpwatchError(
        f"{VMLINUX} cannot be read: it is damaged or newer than libbpf",
        hint=upgrading("libbpf1"),
    )


def _without_memory(what: str) -> TcpwatchError:
    return TcpwatchError(f"not enough memory to load {what}", hint=_HINTS[errno.ENOMEM])


class _Type(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size_or_type", ctypes.c_uint32))

    @property
    def kind(self) -> int:
        return int(self.info >> 24 & 0x1F)

    @property
    def count(self) -> int:
        """Members, enumerators or parameters."""
        return int(self.info & 0xFFFF)


class _Enumerator(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


class _Enumerator64(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("low", ctypes.c_uint32), ("high", ctypes.c_uint32))


@lru_cache(maxsize=1)
def libbpf() -> ctypes.CDLL:
    """The library, a dependency of bcc. Raises TcpwatchError where it is missing."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            lib = ctypes.CDLL(name, use_errno=True)
            break
        except OSError as error:
            if "failed to map segment" in str(error):  # the dynamic loader's message for a lack of memory
                raise _without_memory(name) from error
    else:
        raise TcpwatchError("libbpf is missing", hint=installing("python3-bpfcc"))
    _load_function(lib).restype = ctypes.c_void_p
    lib.btf__find_by_name_kind.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
    lib.btf__find_by_name_kind.restype = ctypes.c_int32
    lib.btf__type_by_id.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.btf__type_by_id.restype = ctypes.c_void_p
    lib.btf__name_by_offset.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    lib.btf__resolve_size.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.btf__resolve_size.restype = ctypes.c_int64
    lib.btf__free.argtypes = (ctypes.c_void_p,)
    lib.libbpf_set_print(None)
    return lib


def _load_function(lib: ctypes.CDLL) -> Any:
    """btf__load_vmlinux_btf(), which came with libbpf 0.5, or its predecessor of libbpf 0.0.7 (src/libbpf.map)."""
    for name in ("btf__load_vmlinux_btf", "libbpf_find_kernel_btf"):
        with suppress(AttributeError):
            return getattr(lib, name)
    raise TcpwatchError(
        "libbpf is too old (expected 0.0.7 or newer)",
        hint=f"{upgrading('libbpf1')}, or a newer release of the distribution",
    )


class KernelTypes:
    """The type information of the running kernel.

    Methods return None for what this kernel does not have. The constructor raises TcpwatchError where the kernel has
    no BTF. Use it as a context manager: it takes some megabytes, and is needed only until the program is compiled.
    """

    def __init__(self) -> None:
        if not _SYSFS.exists():
            raise TcpwatchError("/sys is not mounted", hint="mount -t sysfs sysfs /sys")
        if not VMLINUX.exists():
            raise TcpwatchError(
                f"this kernel has no BTF ({VMLINUX} is missing)",
                hint="boot a kernel built with CONFIG_DEBUG_INFO_BTF=y; every Debian and Ubuntu kernel since 2021 is",
            )
        self._lib = libbpf()
        handle = _load_function(self._lib)()
        # libbpf before 1.0 returns an error as a pointer into the last page.
        if not handle or handle > 2**64 - 4096:
            raise _unreadable()
        self._handle = handle
        self._found: dict[tuple[str, int], int] = {}  # types, by name and kind
        self._known: dict[int, dict[str, tuple[int, int, int]]] = {}  # members, by the address of their struct

    def __enter__(self) -> KernelTypes:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._handle)

    def member(self, struct_name: str, path: str) -> Member | None:
        """The member at a dotted path, also inside anonymous structs and unions, as in C."""
        type_id = self._find(struct_name, _KIND_STRUCT)
        if type_id is None:
            return None
        offset_bits, bitfield = 0, 0
        for name in path.split("."):
            found = self._members(type_id).get(name)
            if found is None:
                return None
            bits, type_id, bitfield = found
            offset_bits += bits
        size = int(self._lib.btf__resolve_size(self._handle, type_id))
        if bitfield == 0:
            return Member(offset_bits // 8, size)
        first, last = offset_bits // 8, (offset_bits + bitfield - 1) // 8
        return Member(first, last - first + 1, offset_bits % 8, bitfield)

    def size(self, struct: str) -> int | None:
        """The size of a struct in bytes."""
        type_id = self._find(struct, _KIND_STRUCT)
        return None if type_id is None else int(self._lib.btf__resolve_size(self._handle, type_id))

    def struct(self, name: str) -> int | None:
        """The BTF id of a struct."""
        return self._find(name, _KIND_STRUCT)

    def enumerator(self, enum: str, name: str) -> int | None:
        """The value of an enumerator of a named enum."""
        return self.enumerators(enum).get(name)

    def enumerators(self, enum: str) -> dict[str, int]:
        """The enumerators of a named enum with their values; empty if the kernel has no such enum."""
        values: dict[str, int] = {}
        for kind, entry in ((_KIND_ENUM, _Enumerator), (_KIND_ENUM64, _Enumerator64)):
            type_id = self._find(enum, kind)
            if type_id is None:
                continue
            address, described = self._type(type_id)
            entries = (entry * described.count).from_address(address + ctypes.sizeof(_Type))
            for item in entries:
                value = item.value if isinstance(item, _Enumerator) else item.high << 32 | item.low
                values[self._name(item.name_off)] = value
        return values

    def hook_arguments(self, tracepoint: str) -> int:
        """The number of arguments of a raw tracepoint; 0 if the kernel has no such tracepoint."""
        type_id = self._find(f"btf_trace_{tracepoint}", _KIND_TYPEDEF)
        if type_id is None:
            return 0
        _, prototype = self._type(self._skip(type_id, _TRANSPARENT | {_KIND_PTR}))
        return prototype.count - 1  # the first one is the kernel's own `void *__data`

    def hook_type(self, tracepoint: str) -> int | None:
        """The BTF id of a raw tracepoint, for a program with typed arguments (5.5)."""
        return self._find(f"btf_trace_{tracepoint}", _KIND_TYPEDEF)

    def function(self, name: str) -> int | None:
        """The BTF id of a kernel function."""
        return self._find(name, _KIND_FUNC)

    def _find(self, name: str, kind: int) -> int | None:
        # libbpf searches a hundred thousand types one by one.
        if (name, kind) not in self._found:
            self._found[name, kind] = self._lib.btf__find_by_name_kind(self._handle, name.encode(), kind)
        type_id = self._found[name, kind]
        return type_id if type_id > 0 else None

    def _type(self, type_id: int) -> tuple[int, _Type]:
        address = self._lib.btf__type_by_id(self._handle, type_id)
        return address, _Type.from_address(address)

    def _name(self, offset: int) -> str:
        return str(self._lib.btf__name_by_offset(self._handle, offset).decode())

    def _skip(self, type_id: int, kinds: set[int]) -> int:
        while True:
            _, described = self._type(type_id)
            if described.kind not in kinds:
                return type_id
            type_id = described.size_or_type

    def _members(self, type_id: int) -> dict[str, tuple[int, int, int]]:
        """Each member, also of anonymous members: offset in bits, type, and width of a bit field or 0."""
        address, described = self._type(self._skip(type_id, _TRANSPARENT))
        if described.kind not in (_KIND_STRUCT, _KIND_UNION):
            return {}
        if address not in self._known:
            found: dict[str, tuple[int, int, int]] = {}
            has_bitfields = bool(described.info >> 31)
            members = ctypes.string_at(address + ctypes.sizeof(_Type), _MEMBER.size * described.count)
            for name_off, member_id, place in _MEMBER.iter_unpack(members):
                offset, bitfield = (place & 0xFFFFFF, place >> 24) if has_bitfields else (place, 0)
                if name := self._name(name_off):
                    found.setdefault(name, (offset, member_id, bitfield))
                else:
                    for inner, (further, inner_id, bits) in self._members(member_id).items():
                        found.setdefault(inner, (offset + further, inner_id, bits))
            self._known[address] = found
        return self._known[address]
