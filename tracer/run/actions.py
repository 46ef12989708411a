"""What acting commands do beside a live run: their messages, as `action` events between those of the kernel."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Optional

from tracer.kernel import clocks, privileges
from tracer.kernel.action_sockets import Inbox, Message
from tracer.model.events import DECLARATIONS, Batch, Event
from tracer.model.kinds import Kind
from tracer.model.threads import can_start, cannot_start
from tracer.model.validation import InvalidEvent, checked

MAX_PENDING = 4096
"""Actions that wait for the pipeline. Beyond that the thread takes no more, and the commands keep them."""
MAX_RECENT = 4096
"""Events that are searched for the socket of an action."""
_PAUSE_S = 0.05
_NAMES = tuple(
    name
    for name, declared in DECLARATIONS.items()
    if Kind.ACTION in declared.kinds and name not in ("time_ns", "ktime_ns", "event", "sock", "by_pid")
)
"""The fields that a command may send."""
_ACTIONS = frozenset({"probe", "protect", "end"})
_REQUIRED = ("laddr", "lport", "raddr", "rport", "netns", "action", "result")
_NOT_REMEMBERED = frozenset({Kind.STATE, Kind.STALL, Kind.COUNTERS, Kind.LOST, Kind.ACTION})

_Ends = tuple[Optional[int], Optional[str], Optional[int], Optional[str], Optional[int]]


def fields_of(message: Message) -> dict[str, Any] | None:
    """The fields of the event that a message describes, in the order of Event. None if it is invalid."""
    try:
        record = json.loads(message.data)
        if not isinstance(record, Mapping):
            return None
        values = checked({name: record[name] for name in _NAMES if name in record})
    except (ValueError, RecursionError, InvalidEvent):
        return None
    if values.get("action") not in _ACTIONS or any(name not in values for name in _REQUIRED):
        return None
    if message.pid > 0:
        values["by_pid"] = message.pid
    return {name: values[name] for name in DECLARATIONS if name in values}


class Actions:
    """Receives messages in a thread without capabilities, and puts their events among those of a source.

    Raises TcpwatchError, and closes the inbox, where the thread cannot be started.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._pending: deque[tuple[int, dict[str, Any]]] = deque()  # when it was received (CLOCK_BOOTTIME), fields
        self._recent: deque[Event] = deque(maxlen=MAX_RECENT)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="actions", daemon=True)
        if not can_start(self._thread):
            inbox.end()
            inbox.close()
            raise cannot_start("actions of other tcpwatch commands are not shown")

    def close(self) -> None:
        """Remove the socket, and wait for the thread."""
        self._ended.set()
        self._inbox.end()
        self._thread.join()
        self._inbox.close()

    def among(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of the source, each with the actions up to its time. What is left follows the last one."""
        until_ns = 0
        for batch in source:
            until_ns = batch.until_ns
            self._recent.extend(event for event in batch.events if event.event not in _NOT_REMEMBERED)
            due = list(self._due(until_ns))
            if due:
                events = sorted([*batch.events, *due], key=lambda event: event.ktime_ns)
                yield batch._replace(events=events)
            else:
                yield batch
        if rest := list(self._due(None)):
            yield Batch(rest, max(until_ns, rest[-1].ktime_ns))

    def _due(self, until_ns: int | None) -> Iterator[Event]:
        socks: dict[_Ends, str | None] | None = None
        while self._pending and (until_ns is None or self._pending[0][0] <= until_ns):
            ktime_ns, fields = self._pending.popleft()
            if socks is None:
                socks = {_ends_of(event): event.sock for event in self._recent}
            yield _event(ktime_ns, fields, socks)

    def _receive(self) -> None:
        with suppress(OSError):  # forbidden in some sandboxes; it works all the same
            privileges.keep_only(())
        with suppress(OSError):
            while not self._ended.is_set():
                if len(self._pending) >= MAX_PENDING:
                    self._ended.wait(_PAUSE_S)
                    continue
                message = self._inbox.receive()
                fields = fields_of(message) if message is not None else None
                if fields is not None:
                    self._pending.append((clocks.boottime_ns(), fields))


def _ends_of(event: Event) -> _Ends:
    return event.netns, event.laddr, event.lport, event.raddr, event.rport


def _event(ktime_ns: int, fields: dict[str, Any], socks: Mapping[_Ends, str | None]) -> Event:
    time_ns = (ktime_ns + clocks.offset_ns()) // 1000 * 1000
    known = {"time_ns": time_ns, "ktime_ns": ktime_ns, "event": Kind.ACTION.value, **fields}
    event = Event.of(known)
    sock = socks.get(_ends_of(event))
    if sock is None:
        return event
    known["sock"] = sock
    return Event.of({name: known[name] for name in DECLARATIONS if name in known})
