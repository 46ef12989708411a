"""The kernel side as a running thing: compile bpf/, load, attach, set the filters, count what was lost."""

from __future__ import annotations

import ctypes
import ipaddress
import mmap
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracer.errors import TcpwatchError
from tracer.filters import Filter
from tracer.kernel.btf import KernelTypes, Member
from tracer.kernel.probes import LOST_HOOKS, Attachment, Probe, TimerFunctions
from tracer.kernel.ring import Ring
from tracer.kernel.wire import SIZE

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_MEMBER = re.compile(r"\b(?:READ|HAS|OFFSET)\((\w+), (\w+)[,)]")
_ENUM = re.compile(r"\bENUM\((\w+), (\w+)\)")
_ARGS = re.compile(r"\bARGS\((\w+)\)")

# The C takes one or the other of these, by kernel or by architecture: lacking one leaves no field absent.
_ALTERNATIVES = {
    "inet_connection_sock.icsk_keepalive_timer",
    "inet_connection_sock.icsk_keepalive_timer.entry.pprev",
    "inet_connection_sock.icsk_keepalive_timer.expires",
    "inet_connection_sock.icsk_retransmit_timer",
    "inet_connection_sock.icsk_retransmit_timer.expires",
    "inet_connection_sock.icsk_rto_max",
    "net.ipv4.sysctl_tcp_syn_linear_timeouts",
    "sock.sk_timer",
    "sock.tcp_retransmit_timer",
    "sock.tcp_retransmit_timer.expires",
    "tcp_sock.tcp_usec_ts",
    "pt_regs.di",
    "user_pt_regs.regs",
}

# Hooks that are called for what is an event of some connection, and for little else.
_ALWAYS_EVENTS = {
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "inet_sock_set_state",
    "tcp_receive_reset",
    "tcp_send_reset",
    "inet_sk_error_report",
}

_BPF_PROG_TYPE_TRACING = 26  # include/uapi/linux/bpf.h

# enum filter_flags in bpf/filter.h
_PORT, _LPORT, _RPORT, _HOST, _NETNS, _IPV4, _IPV6 = 1, 2, 4, 8, 16, 32, 64

TRACER, SOCKETS = "tcpwatch.bpf.c", "sockets.bpf.c"
"""The programs in bpf/: the hooks, and the walk over all sockets."""

RESUME_AFTER_S = 60.0
"""A peer that is heard again after a longer silence is an event, whatever the connection did before."""

RING_BYTES = 8 * 1024 * 1024
"""Size of the ring buffer: forty thousand events between two looks."""


class ProgramError(TcpwatchError):
    """The kernel or the compiler turned the program down; `log` is what they said."""

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(message, hint="tcpwatch check")
        self.log = log


def bpf_directory() -> Path:
    """Where the C is: bpf/ at the top of the tree, or tracer/bpf/ once installed."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


def read_source(directory: Path, name: str) -> str:
    """The program as one text, each of our headers in the place of its first #include.

    bcc rewrites map accesses only in the file that it is given.
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
    """What the source asks about the running kernel, answered, as -D arguments."""
    answers: dict[str, int] = {}
    for struct, name in _MEMBER.findall(source):
        if struct == "type":  # kernel.h's own definition of the macro
            continue
        member = types.member(struct, name.replace("__", ".")) or Member(0, 0)
        answers[f"OFFSET_{struct}__{name}"] = member.offset
        answers[f"SIZE_{struct}__{name}"] = member.size
        answers[f"SHIFT_{struct}__{name}"] = member.shift
        answers[f"BITS_{struct}__{name}"] = member.bits
    for enum, name in _ENUM.findall(source):
        value = types.enumerator(enum, name)
        answers[f"ENUM_{enum}__{name}"] = 0 if value is None else value
    for hook in _ARGS.findall(source):
        answers[f"ARGS_{hook}"] = types.hook_arguments(hook)
    return [f"-D{name}={value}" for name, value in answers.items()]


def absent_members(source: str, types: KernelTypes) -> list[str]:
    """The members that the source reads and this kernel lacks, as `struct.member`: fields that stay unknown."""
    absent = {
        f"{struct}.{name.replace('__', '.')}"
        for struct, name in _MEMBER.findall(source)
        if struct != "type" and types.member(struct, name.replace("__", ".")) is None
    }
    return sorted(absent - _ALTERNATIVES)


class Program:
    """The loaded program. Close it, or use it as a context manager: then nothing stays behind."""

    def __init__(
        self,
        types: KernelTypes,
        *,
        hz: int,
        timers: TimerFunctions = TimerFunctions(0, 0),  # noqa: B008  a tuple
        resume_after_s: float = RESUME_AFTER_S,
        ring_bytes: int = RING_BYTES,
        source: str = TRACER,
    ) -> None:
        """Compile. Raises TcpwatchError without bcc, ProgramError where the compiler fails."""
        bcc = import_bcc()
        directory = bpf_directory()
        text = read_source(directory, source)
        page = os.sysconf("SC_PAGE_SIZE")
        cflags = [
            *definitions(text, types),
            f"-DKERNEL_HZ={hz}",
            f"-DKEEPALIVE_TIMER_ADDRESS={timers.keepalive}ULL",
            f"-DWRITE_TIMER_ADDRESS={timers.write}ULL",
            f"-DRESUME_JIFFIES={round(resume_after_s * hz)}",
            f"-DPAGE_SIZE={page}",
            f"-DRING_PAGES={ring_bytes // page}",
            "-Wno-unused-function",
        ]
        # bcc wants a directory of kernel headers, and takes it from here before any other place.
        os.environ["BCC_KERNEL_SOURCE"] = str(directory)
        self._bcc = bcc
        with _quiet() as said:
            try:
                self._bpf = bcc.BPF(text=text.encode(), cflags=cflags)
            except Exception as error:
                raise ProgramError(f"bcc could not compile the program: {error}", log=said()) from error
        self.attached: list[Probe] = []
        self._ring_bytes = ring_bytes
        self._ring: Ring | None = None
        self._lost: mmap.mmap | None = None
        self._counted_misses: list[str] = []

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach everything and give the maps back."""
        if self._ring is not None:
            self._ring.close()
        if self._lost is not None:
            self._lost.close()
        self._bpf.cleanup()

    def set_filter(self, wanted: Filter) -> None:
        """Hand over what the kernel can decide. Call it before `attach`."""
        flags = 0
        ports: dict[int, int] = {}
        for bit, option in ((_PORT, wanted.ports), (_LPORT, wanted.lports), (_RPORT, wanted.rports)):
            if option:
                flags |= bit
                for port in option:
                    ports[port] = ports.get(port, 0) | bit
        table = self._bpf[b"filter_ports"]
        for port, bits in ports.items():
            table[ctypes.c_uint16(port)] = ctypes.c_uint8(bits)
        if wanted.hosts:
            flags |= _HOST
            table = self._bpf[b"filter_hosts"]
            for host in wanted.hosts:
                prefix, address = _mapped(host)
                table[table.Key(prefix, (ctypes.c_uint8 * 16)(*address))] = ctypes.c_uint8(1)
        if wanted.netns:
            flags |= _NETNS
            table = self._bpf[b"filter_netns"]
            for netns in wanted.netns:
                table[ctypes.c_uint32(netns)] = ctypes.c_uint8(1)
        if wanted.family == 4:
            flags |= _IPV4
        elif wanted.family == 6:
            flags |= _IPV6
        self._bpf[b"filter_flags"][ctypes.c_int(0)] = ctypes.c_uint32(flags)

    def attach(self, probes: Sequence[Probe]) -> None:
        """Attach each probe, or what takes its place. Raises ProgramError where the kernel refuses both."""
        for probe in probes:
            chosen: Probe | None = probe
            while chosen is not None and chosen.attachment is not None:
                try:
                    self._attach(chosen.attachment)
                    break
                except ProgramError:
                    if chosen.if_refused is None:
                        raise
                    chosen = chosen.if_refused
            if chosen is not None:
                self.attached.append(chosen)
                if chosen.attachment is not None and chosen.attachment.hook in _ALWAYS_EVENTS:
                    self._counted_misses.append(chosen.attachment.hook)

    def _attach(self, attachment: Attachment) -> None:
        function = attachment.function.encode()
        with _quiet() as said:
            try:
                if attachment.kind == "kprobe":
                    self._bpf.attach_kprobe(event=attachment.hook.encode(), fn_name=function)
                else:
                    self._bpf.attach_raw_tracepoint(tp=attachment.hook.encode(), fn_name=function)
            except Exception as error:
                raise ProgramError(f"the kernel refused the {attachment}: {error}", log=said()) from error

    def load_iterator(self, function: str) -> int:
        """Load a function that the kernel runs for each object of a kind (BPF_TRACE_ITER): the program's descriptor.

        It ends with `close`. Raises ProgramError where the kernel refuses it.
        """
        with _quiet() as said:
            try:
                # libbcc finds by the name, bpf_iter__<kind>, what it is to be attached to.
                return int(self._bpf.load_func(function.encode(), _BPF_PROG_TYPE_TRACING).fd)
            except Exception as error:
                raise ProgramError(f"the kernel refused {function}: {error}", log=said()) from error

    def open_events(self) -> Ring:
        """The ring that the events come in. It is closed with the program."""
        if self._ring is None:
            self._ring = Ring(self._bpf[b"events"].map_fd, self._ring_bytes, SIZE)
        return self._ring

    def lost(self) -> dict[str, int]:
        """Events that found no room in the ring buffer so far, or no turn, by hook; only hooks that lost any.

        No turn: what an interrupt brings to a hook whose program it has interrupted on the same CPU goes by unseen
        (__bpf_trace_run(), kernel/trace/bpf_trace.c). The kernel counts that; hooks of whose calls nearly all are of
        no interest are left out here.
        """
        if self._lost is None:
            self._lost = mmap.mmap(self._bpf[b"lost"].map_fd, mmap.PAGESIZE, prot=mmap.PROT_READ)
        counts = dict(zip(LOST_HOOKS, memoryview(self._lost).cast("Q")[: len(LOST_HOOKS)].tolist(), strict=True))
        for hook in self._counted_misses:
            descriptor = self._bpf.funcs[f"on_{hook}".encode()].fd
            counts[hook] += recursion_misses(Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii"))
        return {hook: count for hook, count in counts.items() if count}


def recursion_misses(fdinfo: str) -> int:
    """How often a program did not run because it ran already: its fdinfo (Linux 5.12), 0 where that does not say."""
    for line in fdinfo.splitlines():
        if line.startswith("recursion_misses:"):
            return int(line.split()[1])
    return 0


def _mapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, bytes]:
    if network.version == 4:
        return 96 + network.prefixlen, b"\0" * 10 + b"\xff\xff" + network.network_address.packed
    return network.prefixlen, network.network_address.packed


def import_bcc() -> Any:
    """The distribution's bcc. Raises TcpwatchError that tells a missing one from PyPI's other project."""
    hint = (
        "sudo apt-get install python3-bpfcc, and run tcpwatch with /usr/bin/python3 (sudo scripts/install does both)"
    )
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: its libraries cannot be loaded
        raise TcpwatchError(f"the Python package bcc is missing ({error})", hint=hint) from error
    if not hasattr(bcc, "BPF"):
        where = getattr(bcc, "__file__", None) or "nowhere"
        raise TcpwatchError(
            f"the Python package bcc in {where} is PyPI's, which is another project",
            hint=f"{sys.executable} -m pip uninstall bcc; {hint}",
        )
    return bcc


@contextmanager
def _quiet() -> Iterator[Callable[[], str]]:
    """Keep what the C libraries write to stdout and stderr out of sight; yields a function that returns it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
        for fd, _ in saved:
            os.dup2(sink.fileno(), fd)

        def said() -> str:
            sink.seek(0)
            return sink.read().decode("utf-8", "replace")

        try:
            yield said
        finally:
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
