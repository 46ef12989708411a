"""A loaded program: its maps, its functions on their hooks, its iterators.

Some maps are written and read through mmap(), after the privileges have been dropped: bpf(2) would need CAP_BPF.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from tracer.kernel import privileges
from tracer.kernel.layout import SIZE
from tracer.kernel.probes import Attachment, Probe, TimerFunctions
from tracer.kernel.program import syscalls
from tracer.kernel.program.compiled import Compiled, Outdated
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.filter_maps import filter_maps
from tracer.kernel.program.losses import Loss, Losses
from tracer.kernel.program.refusals import HINTS, is_short_of_resources, refusal
from tracer.kernel.program.requests import REQUESTED_BYTES, IdleService, request_holders, request_walk
from tracer.kernel.program.ring import HEADER_BYTES, Ring
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter

# Hooks with calls that are nearly all events: how often the kernel skipped their programs is counted as lost events.
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

_MAX_JIFFIES = (1 << 31) - 1  # jiffies are compared in 32 bits, as the kernel compares TCP's stamps
_SETTINGS = struct.Struct("<QQIIIIIIIxxxx")  # struct settings in bpf/settings.h

RESUME_AFTER_S = 60.0
"""A segment after at least this silence is an event, even if the connection had no trouble."""

WAITING_AFTER_S = 60.0
"""A connection that waits for a response is an event after at least this silence."""

RING_BYTES = 8 * 1024 * 1024
"""Size of the ring buffer: room for forty thousand events."""

MAX_WAKEUP_BATCH = 1024
"""State changes that wake the reader, unless fewer fill half of the ring buffer (bpf/submit.h). With batches of 128
an event takes 1.5 times the CPU time."""


class Program:
    """A compiled program with its maps in the kernel. Close it, or use it as a context manager.

    Functions are loaded when they are attached. timers: addresses of the kernel's timer functions.
    resume_jiffies, waiting_jiffies: RESUME_AFTER_S and WAITING_AFTER_S in jiffies. Raises ProgramError where the
    kernel refuses something, or Outdated if the program comes from the cache and does not suit the kernel.
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
        self._losses: Losses | None = None
        self._shared: dict[str, mmap.mmap] = {}  # memory of maps, by name
        self._maps: dict[str, int] = {}
        self._functions: dict[str, int] = {}
        self._links: list[int] = []
        self._misses: dict[str, int] = {}  # fdinfo of the programs, by hook: how often the kernel skipped each
        self.attached: list[Probe] = []
        self.refused: set[str] = set()  # functions that the kernel refused
        self.iterator: int | None = None  # the link of the walk over all sockets
        self._latest_link: int | None = None  # of any iterator
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
        """Detach the functions and remove the maps."""
        if self._ring is not None:
            self._ring.close()
        for shared in self._shared.values():
            shared.close()
        self._shared.clear()
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
        """Write the settings, and what the kernel decides of the filter. Call it before `attach`.

        A filter may have any number of values: its map is recreated as large as they need.
        """
        flags, maps = filter_maps(wanted)
        for name, elements in maps.items():
            if elements and len(elements) > self._compiled.maps[name].max_entries:
                self._create_map(name, len(elements))
            for key, value in elements.items():
                self._set(name, key, value)
        wakeup_batch = min(MAX_WAKEUP_BATCH, self._ring_bytes // (HEADER_BYTES + SIZE) // 2)
        namespace = Path("/proc/self/ns/pid").stat()
        settings = _SETTINGS.pack(
            self._timers.keepalive, self._timers.write, min(self._resume_jiffies, _MAX_JIFFIES), flags, wakeup_batch,
            min(self._waiting_jiffies, _MAX_JIFFIES), namespace.st_ino, namespace.st_dev, os.getpid(),
        )  # fmt: skip
        self._set("settings", bytes(4), settings)

    def _create_map(self, name: str, entries: int | None = None) -> None:
        """Create a map, or recreate it. entries: None: as compiled. Raises ProgramError."""
        wanted = self._compiled.maps[name]
        if entries is not None:
            wanted = replace(wanted, max_entries=entries)
        try:
            made = syscalls.create_map(name, wanted)
        except OSError as error:
            if self._compiled.is_cached and error.errno == errno.EINVAL:
                raise Outdated(f"map {name}: {error.strerror}") from error
            raise refusal(self._buffer if name == "events" else f"the map {name}", error) from error
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
            raise refusal(f"an entry of the map {name}", error) from error

    def _memory(self, name: str, size: int = mmap.PAGESIZE, *, read_only: bool = False) -> mmap.mmap:
        """The memory of a map, shared with the kernel until `close`."""
        if name in self._shared:
            return self._shared[name]
        if name not in self._maps:
            raise self._mismatch(f"map {name}")
        prot = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
        try:
            self._shared[name] = mmap.mmap(self._maps[name], size, prot=prot)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENODEV):
                raise self._mismatch(f"map {name}") from error
            raise refusal(f"a view of the map {name}", error) from error
        return self._shared[name]

    def _mismatch(self, what: str) -> Exception:
        """The error for a program from another version of tcpwatch."""
        if self._compiled.is_cached:
            return Outdated(what)
        return ProgramError(
            f"the compiled program does not have the expected {what}: bpf/ and tracer/ are of different versions",
            log="",
            hint="install tcpwatch again; tcpwatch --version",
        )

    def attach(self, probes: Sequence[Probe]) -> None:
        """Attach each probe, or its fallback. Raises ProgramError where the kernel refuses both."""
        for probe in probes:
            chosen: Probe | None = probe
            while chosen is not None and chosen.attachment is not None:
                try:
                    self._attach(chosen.attachment)
                    if chosen.second is not None:
                        self._attach(chosen.second)
                    break
                except ProgramError as error:
                    if chosen.if_refused is None or is_short_of_resources(error):
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
            hint = HINTS.get(error.errno, "ls -l /proc/self/fdinfo")
            raise TcpwatchError(f"cannot open {path}: {error.strerror}", hint=hint) from error

    def _attach(self, attachment: Attachment) -> None:
        try:
            kind, opened = _KINDS[attachment.kind]
            is_iterator = attachment.kind == "iterator"
            types = {"iterates" if is_iterator else "traces": attachment.btf_type}
            function = self._load(attachment.function, kind, **types)
            self._links.append(opened(attachment.hook, function))
            if is_iterator:
                self.iterator = self._latest_link = self._links[-1]
        except OSError as error:
            raise refusal(f"the {attachment}", error) from error

    def _load(self, name: str, kind: int, *, iterates: int = 0, traces: int = 0) -> int:
        if name not in self._functions:
            if name not in self._compiled.functions:
                raise self._mismatch(f"function {name}")
            code = self._compiled.linked(name, list(self._maps.values()))
            try:
                self._functions[name] = syscalls.load(name, kind, code, iterates=iterates, traces=traces)
            except syscalls.Refused as error:
                if self._compiled.is_cached and error.is_for_its_code and name not in self._compiled.refused:
                    raise Outdated(f"function {name}: {error.strerror}") from error
                if error.is_for_its_code:
                    self.refused.add(name)
                raise
        return self._functions[name]

    def link_iterator(self, function: str, iterates: int) -> int:
        """Load a function as an iterator, and return its link. `close` closes it.

        iterates: the BTF id of the iterator's kind (bpf_iter_tcp). Raises ProgramError where the kernel refuses it.
        """
        try:
            self._links.append(syscalls.link_iterator(self._load(function, syscalls.TRACING, iterates=iterates)))
        except OSError as error:
            raise refusal(f"the function {function}", error) from error
        self._latest_link = self._links[-1]
        return self._latest_link

    def open_events(self) -> Ring:
        """The ring buffer of the events. `close` closes it."""
        if self._ring is None:
            made = self._compiled.maps.get("events")
            if made is None or made.map_type != syscalls.RINGBUF:
                raise self._mismatch("map events")
            try:
                self._ring = Ring(self._maps["events"], self._ring_bytes, SIZE)
            except OSError as error:
                raise refusal(self._buffer, error) from error
        # Map the memory now: if it does not fit, only the start can compile a cached program again.
        if "lost" in self._maps:
            self._memory("lost", read_only=True)
        if "walks" in self._maps:
            self._memory("walks")
        if "requested" in self._maps:
            self._memory("requested", REQUESTED_BYTES)
        return self._ring

    def request_walk(self, *, trouble: bool, all_waiting: bool, service: IdleService | None = None) -> None:
        """As request_walk()."""
        request_walk(self._memory("walks"), trouble=trouble, all_waiting=all_waiting, service=service)

    def request_holders(self, inodes: Collection[int] | None) -> None:
        """As request_holders()."""
        request_holders(self._memory("requested", REQUESTED_BYTES), inodes)

    @property
    def capabilities(self) -> Sequence[str]:
        """The capabilities that reading an iterator needs: none, on a kernel that demands none for it."""
        link = self._latest_link
        if link is None or privileges.is_free(lambda: os.close(syscalls.create_iterator(link))):
            return ()
        return privileges.TO_WALK

    def lost(self) -> dict[Loss, int]:
        """The lost events so far, by hook and cause; only where there are any."""
        if self._losses is None:
            self._losses = Losses(self._memory("lost", read_only=True))
        return self._losses.read(self._misses)


def _size(count: int) -> str:
    """Bytes as they are typed: `64k`, `8M`, `1G`."""
    unit, shift = next((each for each in (("G", 30), ("M", 20), ("k", 10)) if count >> each[1]), ("", 0))
    return f"{count >> shift}{unit}"
