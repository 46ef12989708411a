"""A compiled program: the maps to create and the functions to load, as plain data that can be cached."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tracer.model.dataclass import dataclass

_MAP = struct.Struct("<5I")
_IMMEDIATE = struct.Struct("<i")
_INSTRUCTION_BYTES = 8  # struct bpf_insn, include/uapi/linux/bpf.h
_LD_MAP = b"\x18"  # BPF_LD | BPF_IMM | BPF_DW
_PSEUDO_MAP_FD = 1
_CALL = b"\x85"  # BPF_JMP | BPF_CALL
_PSEUDO_KFUNC_CALL = 2


class InvalidProgram(ValueError):
    """The text is not what bcc_process.py writes."""


class Outdated(Exception):
    """A cached program does not suit this kernel or this tcpwatch: it must be compiled again."""


@dataclass(frozen=True, slots=True)
class Map:
    """The attributes of a map, for BPF_MAP_CREATE. Sizes in bytes."""

    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program as bcc compiles it.

    maps: in the order of the indices in the instructions. functions: the instructions of each, by name. is_cached: it
    comes from the cache. refused: functions that the kernel refused when the program was new.
    """

    maps: Mapping[str, Map]
    functions: Mapping[str, bytes]
    is_cached: bool = False
    refused: frozenset[str] = frozenset()

    def linked(self, function: str, descriptors: Sequence[int]) -> bytes:
        """The instructions of a function, with descriptors of maps in place of their indices.

        bcc cannot compile the call of a kfunc (5.13). A negative helper number stands for one: minus its BTF id.
        """
        code = bytearray(self.functions[function])
        for start in range(0, len(code), _INSTRUCTION_BYTES):
            opcode, source = code[start : start + 1], code[start + 1] >> 4
            (immediate,) = _IMMEDIATE.unpack_from(code, start + 4)
            if opcode == _LD_MAP and source == _PSEUDO_MAP_FD:
                _IMMEDIATE.pack_into(code, start + 4, descriptors[immediate])
            elif opcode == _CALL and source == 0 and immediate < 0:
                code[start + 1] |= _PSEUDO_KFUNC_CALL << 4
                _IMMEDIATE.pack_into(code, start + 4, -immediate)
        return bytes(code)


def parse_compiled(text: str | bytes, *, is_cached: bool = False) -> Compiled:
    """Parse the output of bcc_process.py. Raises InvalidProgram."""
    try:
        answer: dict[str, Any] = json.loads(text)
        program = Compiled(
            maps={name: Map(**members) for name, members in answer["maps"].items()},
            functions={name: base64.b64decode(code, validate=True) for name, code in answer["functions"].items()},
            is_cached=is_cached,
            refused=frozenset(answer.get("refused", ())),
        )
        for each in program.maps.values():
            _MAP.pack(*(getattr(each, member) for member in Map.__annotations__))
        for function in program.functions:
            program.linked(function, [0] * len(program.maps))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error) as error:
        raise InvalidProgram(str(error)) from error
    return program


def add_refused(text: str | bytes, functions: Collection[str]) -> str:
    """Add to a program's text the functions that the kernel refused."""
    return json.dumps({**json.loads(text), "refused": sorted(functions)})
