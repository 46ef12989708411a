"""The kernel side as a running thing: maps, the filters in them, functions on their hooks, what was lost."""

from __future__ import annotations

import errno
import ipaddress
import mmap
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tracer.kernel import privileges
from tracer.kernel.layout import SIZE
from tracer.kernel.probes import LOST_HOOKS, STATE_HOOK, Attachment, Probe, TimerFunctions
from tracer.kernel.program import syscalls
from tracer.kernel.program.compiled import Compiled, Outdated
from tracer.kernel.program.compiler import MEMORY_HINT, ProgramError
from tracer.kernel.program.ring import HEADER_BYTES, Ring
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter

# Hooks that are called for what is an event of some connection, and for little else.
_ALWAYS_EVENTS = {
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "inet_sock_set_state",
    "tcp_receive_reset",
    "tcp_send_reset",
    "inet_sk_error_report",
}

_KINDS = {
    "kprobe": (syscalls.KPROBE, syscalls.open_kprobe),
    "raw tracepoint": (syscalls.RAW_TRACEPOINT, syscalls.open_raw_tracepoint),
    "typed raw tracepoint": (syscalls.TRACING, syscalls.open_typed_tracepoint),
    "iterator": (syscalls.TRACING, lambda _hook, function: syscalls.link_iterator(function)),
}

# enum filter_flags in bpf/filter.h
_PORT, _LPORT, _RPORT, _HOST, _NETNS, _IPV4, _IPV6 = 1, 2, 4, 8, 16, 32, 64

_PORT_KEY, _HOST_KEY, _NETNS_KEY = struct.Struct("<H"), struct.Struct("<I16s"), struct.Struct("<I")

_MAX_JIFFIES = (1 << 31) - 1  # jiffies are compared in 32 bits, as the kernel's own TCP times are
_SETTINGS = struct.Struct("<QQIIIIIIIxxxx")  # struct settings in bpf/settings.h

_WALK, _WALK_OFFSET = struct.Struct("<II16sHH"), 24  # from the flags on: struct walk in bpf/walk.h
_TROUBLE, _ALL, _SERVICE = 1, 2, 4  # enum walk_flags
_ASKED_BYTES = 8 * 1024  # of the map `asked` in bpf/holder.h, a bit for each inode modulo their number

RESUME_AFTER_S = 60.0
"""A peer that is heard again after a longer silence is an event, whatever the connection did before."""

WAITING_AFTER_S = 60.0
"""Whoever has waited for an answer in a longer silence is an event."""

RING_BYTES = 8 * 1024 * 1024
"""Size of the ring buffer: forty thousand events between two looks."""

COMPANY = 1024
"""Changes of state that wake us where no tenth of a second is over before, if that is no more than half of what the
ring holds. With 128 an event took half as much again of the processor."""


FULL, REENTERED = "full", "reentered"
"""Why events were lost: see `Program.lost`."""


class Loss(NamedTuple):
    """Where events were lost, and why."""

    hook: str
    cause: str


class Suspects(NamedTuple):
    """Connections to a service that have been silent for so long."""

    silent_jiffies: int
    raddr: bytes  # as struct event has it
    port: int  # the remote one; the local one where the service is ours
    is_local: bool


class Program:
    """A compiled program, loaded. Close it, or use it as a context manager: then nothing stays behind.

    Functions are loaded when they are attached. timers: the kernel's functions that a timer is known by.
    resume_jiffies, waiting_jiffies: RESUME_AFTER_S and WAITING_AFTER_S in them. Raises ProgramError where the kernel
    refuses something, and Outdated instead where that is the fault of a program that was kept.
    """

    def __init__(
        self,
        compiled: Compiled,
        *,
        timers: TimerFunctions = TimerFunctions(0, 0),  # noqa: B008  a tuple
        resume_jiffies: int = 0,
        waiting_jiffies: int = 0,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self._compiled = compiled
        self._timers = timers
        self._resume_jiffies = resume_jiffies
        self._waiting_jiffies = waiting_jiffies
        self._ring_bytes = ring_bytes
        self._buffer = f"an event buffer of {_size(ring_bytes)}"
        self._ring: Ring | None = None
        self._lost: mmap.mmap | None = None
        self._walks: mmap.mmap | None = None
        self._asked: mmap.mmap | None = None
        self._most_lost: dict[Loss, int] = {}
        self._maps: dict[str, int] = {}
        self._functions: dict[str, int] = {}
        self._links: list[int] = []
        self._misses: dict[str, int] = {}  # by hook, where the kernel says how often its program did not run
        self.attached: list[Probe] = []
        self.refused: set[str] = set()  # functions that the kernel refused
        self.iterator: int | None = None  # the link that walks over all sockets are made of
        self._iterates: int | None = None  # that one, or another's
        syscalls.raise_limits()
        try:
            for name in compiled.maps:
                self._create_map(name, ring_bytes if name == "events" else None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach everything and give the maps back."""
        if self._ring is not None:
            self._ring.close()
        for shared in (self._lost, self._walks, self._asked):
            if shared is not None:
                shared.close()
        for descriptor in (
            *self._misses.values(),
            *self._links,
            *self._functions.values(),
            *self._maps.values(),
        ):
            os.close(descriptor)
        self._misses.clear()
        self._links.clear()
        self._functions.clear()
        self._maps.clear()

    def configure(self, wanted: Filter) -> None:
        """Hand over the settings, and of the filter what the kernel can decide. Call it before `attach`.

        A filter may have any number of values: its map is made as large.
        """
        flags = 0
        ports: dict[bytes, int] = {}
        for bit, option in ((_PORT, wanted.ports), (_LPORT, wanted.lports), (_RPORT, wanted.rports)):
            flags |= bit if option else 0
            for port in option:
                key = _PORT_KEY.pack(port)
                ports[key] = ports.get(key, 0) | bit
        hosts = {_HOST_KEY.pack(*_mapped(host)): 1 for host in wanted.hosts}
        namespaces = {_NETNS_KEY.pack(netns): 1 for netns in wanted.netns}
        flags |= (_HOST if hosts else 0) | (_NETNS if namespaces else 0)
        flags |= {4: _IPV4, 6: _IPV6}.get(wanted.family or 0, 0)
        for name, values in (("filter_ports", ports), ("filter_hosts", hosts), ("filter_netns", namespaces)):
            if values and len(values) > self._compiled.maps[name].max_entries:
                self._create_map(name, len(values))
            for key, value in values.items():
                self._set(name, key, bytes([value]))
        company = min(COMPANY, self._ring_bytes // (HEADER_BYTES + SIZE) // 2)
        namespace = Path("/proc/self/ns/pid").stat()
        settings = _SETTINGS.pack(
            self._timers.keepalive, self._timers.write, min(self._resume_jiffies, _MAX_JIFFIES), flags, company,
            min(self._waiting_jiffies, _MAX_JIFFIES), namespace.st_ino, namespace.st_dev, os.getpid(),
        )  # fmt: skip
        self._set("settings", bytes(4), settings)

    def _create_map(self, name: str, entries: int | None = None) -> None:
        """Make a map, in the place of the one that is there. entries: None: as compiled. Raises ProgramError."""
        wanted = self._compiled.maps[name]
        try:
            made = syscalls.create_map(name, replace(wanted, max_entries=entries or wanted.max_entries))
        except OSError as error:
            if self._compiled.is_kept and error.errno == errno.EINVAL:
                raise Outdated(f"map {name}: {error.strerror}") from error
            raise _refusal(self._buffer if name == "events" else f"the map {name}", error) from error
        if name in self._maps:
            os.close(self._maps[name])
        self._maps[name] = made

    def _set(self, name: str, key: bytes, value: bytes) -> None:
        made = self._compiled.maps.get(name)
        if made is None or (made.key_size, made.value_size) != (len(key), len(value)):
            raise self._mismatch(f"map {name}")
        try:
            syscalls.update_map(self._maps[name], key, value)
        except OSError as error:
            raise _refusal(f"an entry of the map {name}", error) from error

    def _shared(self, name: str, size: int, prot: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
        """The memory of a map, shared with the kernel."""
        if name not in self._maps:
            raise self._mismatch(f"map {name}")
        try:
            return mmap.mmap(self._maps[name], size, prot=prot)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENODEV):
                raise self._mismatch(f"map {name}") from error
            raise _refusal(f"a view of the map {name}", error) from error

    def _mismatch(self, what: str) -> Exception:
        """The error for a program that is not what this version of tcpwatch expects."""
        if self._compiled.is_kept:
            return Outdated(what)
        return ProgramError(
            f"the compiled program does not have the expected {what}: bpf/ and tracer/ are of different versions",
            log="",
            hint="install tcpwatch again; tcpwatch --version",
        )

    def attach(self, probes: Sequence[Probe]) -> None:
        """Attach each probe, or what takes its place. Raises ProgramError where the kernel refuses both."""
        for probe in probes:
            chosen: Probe | None = probe
            while chosen is not None and chosen.attachment is not None:
                try:
                    self._attach(chosen.attachment)
                    if chosen.second is not None:
                        self._attach(chosen.second)
                    break
                except ProgramError as error:
                    if chosen.if_refused is None or _is_short_of(error):
                        raise
                    chosen = chosen.if_refused
            if chosen is not None:
                self.attached.append(chosen)
                if chosen.attachment is not None and chosen.attachment.hook in _ALWAYS_EVENTS:
                    self._open_misses(chosen.attachment)

    def _open_misses(self, attachment: Attachment) -> None:
        path = f"/proc/self/fdinfo/{self._functions[attachment.function]}"
        try:
            self._misses[attachment.hook] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "ls -l /proc/self/fdinfo")
            raise TcpwatchError(f"cannot open {path}: {error.strerror}", hint=hint) from error

    def _attach(self, attachment: Attachment) -> None:
        try:
            kind, opened = _KINDS[attachment.kind]
            is_iterator = attachment.kind == "iterator"
            types = {"iterates" if is_iterator else "traces": attachment.btf_type}
            function = self._load(attachment.function, kind, **types)
            self._links.append(opened(attachment.hook, function))
            if is_iterator:
                self.iterator = self._iterates = self._links[-1]
        except OSError as error:
            raise _refusal(f"the {attachment}", error) from error

    def _load(self, name: str, kind: int, *, iterates: int = 0, traces: int = 0) -> int:
        if name not in self._functions:
            if name not in self._compiled.functions:
                raise self._mismatch(f"function {name}")
            code = self._compiled.linked(name, list(self._maps.values()))
            try:
                self._functions[name] = syscalls.load(name, kind, code, iterates=iterates, traces=traces)
            except syscalls.Refused as error:
                if self._compiled.is_kept and error.is_for_its_code and name not in self._compiled.refused:
                    raise Outdated(f"function {name}: {error.strerror}") from error
                if error.is_for_its_code:
                    self.refused.add(name)
                raise
        return self._functions[name]

    def link_iterator(self, function: str, iterates: int) -> int:
        """Load a function that the kernel runs for each object of a kind: what iterators are made of.

        iterates: the BTF type of the kind's own function. It ends with `close`. Raises ProgramError where the kernel
        refuses it.
        """
        try:
            self._links.append(syscalls.link_iterator(self._load(function, syscalls.TRACING, iterates=iterates)))
        except OSError as error:
            raise _refusal(f"the function {function}", error) from error
        self._iterates = self._links[-1]
        return self._iterates

    def open_events(self) -> Ring:
        """The ring that the events come in. It is closed with the program."""
        if self._ring is None:
            made = self._compiled.maps.get("events")
            if made is None or made.map_type != syscalls.RINGBUF:
                raise self._mismatch("map events")
            try:
                self._ring = Ring(self._maps["events"], self._ring_bytes, SIZE)
            except OSError as error:
                raise _refusal(self._buffer, error) from error
        # Now, because a kept program with maps that do not fit is compiled again only at the start.
        if "lost" in self._maps:
            self._lost = self._lost or self._shared("lost", mmap.PAGESIZE, mmap.PROT_READ)
        if "walks" in self._maps:
            self._walks = self._walks or self._shared("walks", mmap.PAGESIZE)
        if "asked" in self._maps:
            self._asked = self._asked or self._shared("asked", _ASKED_BYTES)
        return self._ring

    def prepare_walk(self, *, trouble: bool, all_waiting: bool, suspects: Suspects | None = None) -> None:
        """What the next walk tells of (bpf/walk.h).

        trouble: connections in trouble. all_waiting: all that wait, whatever was told before. suspects: connections
        to one service. Written in place, without the bpf() that needs CAP_BPF.
        """
        if self._walks is None:
            self._walks = self._shared("walks", mmap.PAGESIZE)
        flags = _TROUBLE * trouble | _ALL * all_waiting | _SERVICE * (suspects is not None)
        silent, raddr, port, is_local = suspects or (0, b"", 0, False)
        _WALK.pack_into(self._walks, _WALK_OFFSET, flags, silent, raddr, port, is_local)

    def ask_for_holders(self, inodes: Collection[int] | None) -> None:
        """Which sockets report_holder looks for (bpf/holder.h): these, or all. Written in place, too."""
        if self._asked is None:
            self._asked = self._shared("asked", _ASKED_BYTES)
        bits = bytearray(_ASKED_BYTES if inodes is not None else b"\xff" * _ASKED_BYTES)
        for inode in inodes or ():
            bits[inode // 8 % _ASKED_BYTES] |= 1 << inode % 8
        self._asked[:] = bytes(bits)

    @property
    def capabilities(self) -> Sequence[str]:
        """Those that reading its iterators still needs: none on a kernel that makes an iterator for anybody."""
        link = self._iterates
        if link is None or privileges.is_free(lambda: os.close(syscalls.create_iterator(link))):
            return ()
        return privileges.TO_WALK

    def lost(self) -> dict[Loss, int]:
        """Events that were lost so far, by hook and cause; only where there were any.

        FULL: there was no room in the ring buffer. REENTERED: an interrupt brought the event to a hook whose program
        it had interrupted on the same CPU (__bpf_trace_run(), kernel/trace/bpf_trace.c). The kernel counts those, and
        a second program sees most of them (bpf/nested.h). Hooks of whose calls nearly all are of no interest are left
        out there.
        """
        if self._lost is None:
            self._lost = self._shared("lost", mmap.PAGESIZE, mmap.PROT_READ)
        # In this order: what the second program sees in between was counted before, or is counted the next time.
        missed = {hook: recursion_misses(os.pread(fd, mmap.PAGESIZE, 0)) for hook, fd in self._misses.items()}
        *full, seen_by_second = memoryview(self._lost).cast("Q")[: len(LOST_HOOKS) + 1].tolist()
        if STATE_HOOK in missed:
            missed[STATE_HOOK] -= seen_by_second
        counts = {Loss(hook, FULL): count for hook, count in zip(LOST_HOOKS, full, strict=True)}
        counts |= {Loss(hook, REENTERED): count for hook, count in missed.items()}
        for loss, count in counts.items():
            if count > self._most_lost.get(loss, 0):
                self._most_lost[loss] = count
        return dict(self._most_lost)


_RESOURCES = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_HINTS = {
    errno.EPERM: "ulimit -l unlimited; tcpwatch check",
    errno.EMFILE: f"ulimit -n {syscalls.MIN_FILES}",
    errno.ENFILE: "cat /proc/sys/fs/file-nr",
    errno.ENOMEM: f"a smaller --buffer-size, as 1M; {MEMORY_HINT}",
}


def _refusal(what: str, error: OSError) -> ProgramError:
    """The error where the kernel refuses something."""
    log = error.log if isinstance(error, syscalls.Refused) and error.is_for_its_code else ""
    hint = _HINTS.get(error.errno or 0, "tcpwatch check")
    return ProgramError(f"the kernel refused {what}: {error.strerror}", log=log, hint=hint)


def _is_short_of(error: ProgramError) -> bool:
    """Whether files or memory ran out, so that no other way of attaching would do."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _RESOURCES


def _size(count: int) -> str:
    """Bytes as they are typed: `64k`, `8M`, `1G`."""
    unit, shift = next((each for each in (("G", 30), ("M", 20), ("k", 10)) if count >> each[1]), ("", 0))
    return f"{count >> shift}{unit}"


def recursion_misses(fdinfo: bytes) -> int:
    """How often a program did not run because it ran already: its fdinfo (Linux 5.12), 0 where that does not say."""
    for line in fdinfo.splitlines():
        if line.startswith(b"recursion_misses:"):
            return int(line.split()[1])
    return 0


def mapped(address: str) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d. Raises ValueError for what is no address."""
    parsed = ipaddress.ip_address(address)
    return b"\0" * 10 + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed


def _mapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, bytes]:
    prefix = network.prefixlen + (96 if network.version == 4 else 0)
    return prefix, mapped(str(network.network_address))
