"""Compile with bcc, in a process of its own that returns LLVM's memory when it ends.

It runs as a file, isolated (python -I), and imports nothing of tracer. It reads one JSON object from stdin: {"text",
"cflags"}. It writes one to stdout: {"bcc": its version}, with the compiled program if there was a text (see
compiled.py); or {"missing"} or {"foreign"} without the right bcc, {"memory"} without enough memory, {"error"} if the
text does not compile, with the version, too. The compiler's messages go to stderr.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn, include/uapi/linux/bpf.h: code, registers, offset, immediate
_LD_IMM64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW
_PSEUDO_MAP_FD = 1  # as the source register: the immediate is a map's descriptor

# The dynamic loader's messages for a lack of memory (elf/dl-load.c in glibc).
_LOADER_MEMORY = ("failed to map segment", "cannot allocate memory", "cannot create shared object descriptor")


def main() -> None:
    """Compile once."""
    # systemd terminates all processes of a unit at once. The parent needs this answer to end properly.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answer = os.dup(1)
    os.dup2(2, 1)  # libbcc prints to stdout
    request = json.load(sys.stdin)
    with os.fdopen(answer, "w", encoding="ascii") as out:
        json.dump(_answer(**request), out)
    os._exit(0)  # skip the destructors of LLVM


def _answer(text: str, cflags: Sequence[str]) -> dict[str, Any]:
    try:
        import bcc
    except MemoryError:
        return {"memory": "while Python loaded bcc"}
    except (ImportError, OSError) as error:  # OSError: its libraries cannot be loaded
        is_memory = any(words in str(error) for words in _LOADER_MEMORY)
        return {"memory" if is_memory else "missing": str(error)}
    if not hasattr(bcc, "BPF"):
        place = getattr(bcc, "__file__", None)
        return {"foreign": place} if place else {"missing": "there is only a directory of that name"}
    version = {"bcc": str(getattr(bcc, "__version__", "unknown version"))}
    if not text:
        return version
    try:
        return {**version, **_parts(bcc, bcc.BPF(text=text.encode(), cflags=cflags))}
    except MemoryError:
        return {"memory": "while bcc compiled"}
    except Exception as error:
        return {**version, "error": str(error)}


def _parts(bcc: Any, bpf: Any) -> dict[str, Any]:
    """The maps and functions. An instruction that refers to a map has the index of the map."""
    library = bcc.lib
    library.bpf_num_tables.restype = ctypes.c_size_t
    library.bpf_num_tables.argtypes = [ctypes.c_void_p]
    library.bpf_table_name.restype = ctypes.c_char_p
    library.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    names = [library.bpf_table_name(bpf.module, number) for number in range(library.bpf_num_tables(bpf.module))]
    descriptors = [library.bpf_table_fd(bpf.module, name) for name in names]
    count = library.bpf_num_functions(bpf.module)
    functions = [library.bpf_function_name(bpf.module, number) for number in range(count)]
    return {
        "maps": {name.decode(): _map(fd) for name, fd in zip(names, descriptors)},
        "functions": {name.decode(): _code(bpf.dump_func(name), descriptors) for name in functions},
    }


def _map(descriptor: int) -> dict[str, int]:
    """The attributes of a map, from its fdinfo."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
    info = dict(line.split(":\t", 1) for line in lines)
    return {name: int(info[name], 0) for name in ("map_type", "key_size", "value_size", "max_entries", "map_flags")}


def _code(code: bytes, descriptors: Sequence[int]) -> str:
    """The instructions in base64."""
    placed = bytearray(code)
    for start in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, offset, immediate = _INSTRUCTION.unpack_from(code, start)
        if opcode == _LD_IMM64 and registers >> 4 == _PSEUDO_MAP_FD:
            _INSTRUCTION.pack_into(placed, start, opcode, registers, offset, descriptors.index(immediate))
    return base64.b64encode(placed).decode()


if __name__ == "__main__":
    main()
