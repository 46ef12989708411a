"""The C source in bpf/, with the facts about the running kernel that it is compiled with."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tracer.kernel.program.btf import KernelTypes, Member
from tracer.model.dataclass import dataclass

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
# The macros of bpf/kernel.h that name something of the running kernel.
_MEMBER = re.compile(r"\b(?:CORE_READ|COPY_READ|TYPED_READ|FIELD_EXISTS|FIELD_OFFSET)\((\w+), (\w+)[,)]")
_SIZE = re.compile(r"\b(?:TYPE_SIZE|DECLARE_COPY|FILL_COPY)\((\w+)[,)]")
_ENUM = re.compile(r"\bENUM_VALUE\((\w+), (\w+)\)")
_ARGS = re.compile(r"\bTRACEPOINT_ARGS\((\w+)\)")
_TYPE_ID = re.compile(r"\bTYPE_ID\((\w+)\)")
_KFUNC = re.compile(r"\bKFUNC_ID\((\w+)\)")

# The source reads one or another of these, by kernel or architecture: without one of them no field is unknown.
_ALTERNATIVES = {
    "inet_connection_sock.icsk_keepalive_timer",
    "inet_connection_sock.icsk_keepalive_timer.entry.pprev",
    "inet_connection_sock.icsk_keepalive_timer.expires",
    "inet_connection_sock.icsk_keepalive_timer.flags",
    "inet_connection_sock.icsk_retransmit_timer",
    "inet_connection_sock.icsk_retransmit_timer.expires",
    "inet_connection_sock.icsk_retransmit_timer.flags",
    "inet_connection_sock.icsk_rto_max",
    "netns_ipv4.sysctl_tcp_syn_linear_timeouts",
    "sock.sk_timer",
    "sock.sk_timer.flags",
    "sock.tcp_retransmit_timer",
    "sock.tcp_retransmit_timer.expires",
    "sock.tcp_retransmit_timer.flags",
    "tcp_sock.tcp_usec_ts",
    "pt_regs.di",
    "user_pt_regs.regs",
}

TRACER, SOCKETS = "tcpwatch.bpf.c", "sockets.bpf.c"
"""The programs in bpf/: the tracer, and the reader of all sockets."""


@dataclass(frozen=True, slots=True)
class Source:
    """The input of the compiler: equal sources compile to equal programs. directory: of the headers."""

    text: str
    cflags: tuple[str, ...]
    directory: Path


def source_for(name: str, types: KernelTypes, *, hz: int) -> Source:
    """The source of a program in bpf/ for the running kernel. hz: jiffies per second.

    It is the same for each start and each boot, so that the program can be cached. Settings are written to a map.
    """
    directory = bpf_directory()
    text = read_source(directory, name)
    cflags = (
        *definitions(text, types),
        f"-DKERNEL_HZ={hz}",
        f"-DPAGE_SIZE={os.sysconf('SC_PAGE_SIZE')}",
        "-Wno-unused-function",
    )
    return Source(text, cflags, directory)


def bpf_directory() -> Path:
    """The directory of the C source: bpf/ at the top of the tree, or tracer/bpf/ once installed."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


def read_source(directory: Path, name: str) -> str:
    """The program as one text, with our headers in place of their first #include.

    bcc rewrites map accesses only in the main file.
    """
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (directory / name).read_text(encoding="utf-8")
        return _INCLUDE.sub(lambda match: expand(match[1]), text)

    return expand(name)


def definitions(source: str, types: KernelTypes) -> list[str]:
    """The answers to the macros of bpf/kernel.h for the running kernel, as -D arguments."""
    answers: dict[str, int] = {}
    for struct, name in _MEMBER.findall(source):
        if struct == "type":  # the definition of the macro
            continue
        member = types.member(struct, name.replace("__", ".")) or Member(0, 0)
        answers[f"OFFSET_{struct}__{name}"] = member.offset
        answers[f"SIZE_{struct}__{name}"] = member.size
        answers[f"SHIFT_{struct}__{name}"] = member.shift
        answers[f"BITS_{struct}__{name}"] = member.bits
    for struct in _SIZE.findall(source):
        if struct != "type":
            answers[f"SIZEOF_{struct}"] = _or_absent(types.size(struct))
    for enum, name in _ENUM.findall(source):
        answers[f"ENUM_{enum}__{name}"] = _or_absent(types.enumerator(enum, name))
    for hook in _ARGS.findall(source):
        answers[f"ARGS_{hook}"] = types.hook_arguments(hook)
    for struct in _TYPE_ID.findall(source):
        if struct != "type":
            answers[f"TYPE_ID_{struct}"] = _or_absent(types.struct(struct))
    for function in _KFUNC.findall(source):
        if function != "function":
            answers[f"KFUNC_ID_{function}"] = _or_absent(types.function(function))
    return [f"-D{name}={value}" for name, value in answers.items()]


def _or_absent(answer: int | None) -> int:
    """0 for what this kernel lacks, as bpf/kernel.h defines it."""
    return 0 if answer is None else answer


def absent_members(source: str, types: KernelTypes) -> list[str]:
    """The members that the source reads and this kernel lacks, as `struct.member`: their fields stay unknown."""
    absent = {
        f"{struct}.{name.replace('__', '.')}"
        for struct, name in _MEMBER.findall(source)
        if struct != "type" and types.member(struct, name.replace("__", ".")) is None
    }
    return sorted(absent - _ALTERNATIVES)
