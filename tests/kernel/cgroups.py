"""Control groups and programs on them: a hierarchy of its own, a group in it, and a program that renames peers."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_PROG_LOAD, _PROG_ATTACH = 5, 8
_CGROUP_SOCK_ADDR = 18  # enum bpf_prog_type
_INET4_GETPEERNAME = 29  # enum bpf_attach_type
_ANOTHER_PORT = b"".join(
    struct.pack("=BBhi", *instruction)
    for instruction in (
        (0xB4, 2, 0, 0x100),  # w2 = htons(1) on a little-endian machine
        (0x63, 0x21, 24, 0),  # ctx->user_port = w2
        (0xB7, 0, 0, 1),  # return 1
        (0x95, 0, 0, 0),
    )
)

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def group(directory: Path, *options: str) -> Iterator[Path]:
    """Mount a hierarchy on this directory, and make a group in it. options: of mount(8)."""
    directory.mkdir()
    subprocess.run(["mount", *options, "none", directory], check=True)
    made = directory / f"tcpwatch-{os.getpid()}"
    try:
        made.mkdir()
        yield made
    finally:
        for pid in (made / "cgroup.procs").read_text(encoding="ascii").split():
            (directory / "cgroup.procs").write_text(pid, encoding="ascii")
        made.rmdir()
        subprocess.run(["umount", directory], check=True)


def rename_peers(made: Path) -> None:
    """Let getpeername() of this group's IPv4 sockets return port 1, as programs for virtual addresses do."""
    instructions = ctypes.create_string_buffer(_ANOTHER_PORT)
    license_name = ctypes.create_string_buffer(b"GPL")
    program = _bpf(
        _PROG_LOAD,
        struct.pack("=IIQQIIQII16sII", _CGROUP_SOCK_ADDR, len(_ANOTHER_PORT) // 8, ctypes.addressof(instructions),
                    ctypes.addressof(license_name), 0, 0, 0, 0, 0, b"", 0, _INET4_GETPEERNAME),
    )  # fmt: skip
    directory = os.open(made, os.O_RDONLY)
    try:
        _bpf(_PROG_ATTACH, struct.pack("=IIII", directory, program, _INET4_GETPEERNAME, 0))
    finally:
        os.close(directory)
        os.close(program)


def _bpf(command: int, attributes: bytes) -> int:
    result: int = _libc.syscall(_SYS_BPF, command, ctypes.create_string_buffer(attributes), len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
