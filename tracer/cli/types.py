"""Types of option values: ports, processes, kinds of event, and the classes that wrap `parse_` functions for click.

Each `parse_` function raises UsageError for invalid text, with the expected form.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from click.shell_completion import CompletionItem

from tracer.cli.expressions import WORDS
from tracer.cli.hosts import parse_hosts
from tracer.cli.quantities import is_number, parse_buffer_size, parse_duration, parse_size, shortened
from tracer.model.dataclass import dataclass
from tracer.model.errors import UsageError, as_argument
from tracer.model.kinds import EVENTS, Kind
from tracer.model.patterns import unit_name
from tracer.output.messages import say
from tracer.recordings.targets import STANDARD_OUTPUT

T = TypeVar("T")

_OF_PACKETS = (".pcap", ".pcapng", ".cap")
_MAX_PORT = 65535
_MAX_PID = 4 * 1024 * 1024  # PID_MAX_LIMIT, include/linux/threads.h
_RANGE = re.compile(r"(\d*)(?:[-:]|\.\.)(\d*)", re.ASCII)
_SPELLED_ELSEWHERE = re.compile(r":(.+)|(.+)/tcp", re.ASCII)
"""A port as ss and Docker have it."""
_EVENTS_OF_WORDS = {
    "retransmission": Kind.RETRANSMIT, "retrans": Kind.RETRANSMIT, "probe": Kind.KEEPALIVE, "rst": Kind.RESET,
    "resumed": Kind.RESUME, "window": Kind.WINDOW_PROBE, "wait": Kind.WAITING, "states": Kind.STATE,
}  # fmt: skip
"""Other words for kinds of event."""
_EVENTS_OF_LINES = {
    **dict.fromkeys(("rto", "tlp", "fast", "syn", "synack", "fin"), Kind.RETRANSMIT),
    **dict.fromkeys(("etimedout", "econnreset", "timeout"), Kind.ERROR),
    **dict.fromkeys(("window?", "persist"), Kind.WINDOW_PROBE),
    **dict.fromkeys(("established", "close", "connect"), Kind.STATE),
    "idle": Kind.FOUND,
}  # fmt: skip
"""Words of the output that are only a part of a kind of event."""


def parse_port(text: str) -> int:
    """A number from 1 to 65535, or a name of /etc/services."""
    if is_number(text):
        if len(text) <= len(str(_MAX_PORT)) and 1 <= int(text) <= _MAX_PORT:
            return int(text)
    else:
        try:
            return socket.getservbyname(text, "tcp")
        except (OSError, ValueError):
            pass
    raise _invalid_port(text)


def parse_ports(text: str) -> range:
    """A port as `parse_port` takes it, or a range: `3306-3310`."""
    match = _RANGE.fullmatch(text)
    if match is None:
        port = parse_port(text)
        return range(port, port + 1)
    first, last = (parse_port(end) if end else 0 for end in match.groups())
    if not 0 < first <= last or "-" not in text:
        if text.startswith(":") and last:
            raise _invalid_port(text, f"--port {last}")
        low, high = (min(first, last), max(first, last)) if first and last else (first or 1, last or _MAX_PORT)
        raise _invalid_port(text, f"--port {low}-{high}")
    return range(first, last + 1)


def _invalid_port(text: str, hint: str = "") -> UsageError:
    return UsageError(
        f"invalid port {shortened(text)!r} (expected 1 to {_MAX_PORT}, a range, or a name of /etc/services)",
        hint=hint or _similar_port(text),
    )


def _similar_port(text: str) -> str:
    """The port that may have been meant: `MySQL`, `:mysql`, `3306/tcp`."""
    match = _SPELLED_ELSEWHERE.fullmatch(text.lower())
    similar = (match[1] or match[2]) if match is not None else text.lower()
    if similar != text:
        try:
            parse_port(similar)
        except UsageError:
            pass
        else:
            return f"--port {similar}"
    return "--port 3306,11300 or --port 3306-3310"


def parse_event(text: str) -> str:
    """One of EVENTS, in any case, or its plural."""
    word = text.lower().replace("_", "-")
    for name in (word, word.removesuffix("s"), word.removesuffix("es")):
        if name in EVENTS:
            return name
        if name in _EVENTS_OF_WORDS:
            return _EVENTS_OF_WORDS[name].value
    hint = f"--event {_similar_event(word)}"
    if word == "all":
        hint = "leave --event out"
    elif word.startswith("trace="):
        hint = "tcpwatch traces no system calls: leave -e out, or use --event stall"
    raise UsageError(
        f"invalid event {shortened(text)!r} (expected {', '.join(EVENTS[:-1])} or {EVENTS[-1]})", hint=hint
    )


def _similar_event(word: str) -> str:
    """The kind of event that may have been meant. Verdicts and outcomes, too, are words of the output."""
    from tracer.analysis.outcomes import Outcome
    from tracer.analysis.verdicts import Verdict

    if word in _EVENTS_OF_LINES:
        return _EVENTS_OF_LINES[word].value
    similar = [] if word in {*Verdict, *Outcome} else difflib.get_close_matches(word, EVENTS, n=1)
    return similar[0] if similar else Kind.STALL.value


def parse_pid(text: str) -> int:
    """A process id."""
    if not (is_number(text) and len(text) < 10 and 0 < int(text) <= _MAX_PID):
        raise UsageError(
            f"invalid process id {shortened(text)!r} (expected 1 to {_MAX_PID})",
            hint=f"pgrep -d, {shortened(text)} shows the ids of a name; --comm {shortened(text)}"
            if re.fullmatch(r"[A-Za-z][\w.-]*", text, re.ASCII)
            else "--pid 8506",
        )
    return int(text)


def parse_comm(text: str) -> str:
    """A process's name. Bytes that are not UTF-8 are escaped as in events."""
    if not text:
        raise UsageError("invalid process name '' (expected the name of a process or program)", hint="--comm php")
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def parse_name(text: str) -> str:
    """The name of a container or pod, which may have `*` and `?` for other characters."""
    if not text.strip("/"):
        raise UsageError(
            f"invalid name {shortened(text)!r} (expected a name, or a pattern such as 'web-*')", hint="--pod 'web-*'"
        )
    return os.fsencode(text).decode("utf-8", "backslashreplace")


_UNITS_WITHOUT_PROCESSES = (".slice", ".timer", ".path", ".target", ".device", ".automount")


def parse_unit(text: str) -> str:
    """The name of a systemd unit. A name without its type is that of a service."""
    if not text:
        raise UsageError("invalid unit '' (expected the name of a systemd unit)", hint="--unit nginx")
    if text.endswith(_UNITS_WITHOUT_PROCESSES):
        raise UsageError(
            f"invalid unit {shortened(text)!r} (expected a unit that has processes of its own)",
            hint="--unit nginx, or --unit 'worker@*'",
        )
    return unit_name(os.fsencode(text).decode("utf-8", "backslashreplace"))


def option_name(option: click.Parameter | None) -> str:
    """The long name of an option, for errors."""
    return max(option.opts, key=len) if option is not None else "the value"


class Parsed(click.ParamType, Generic[T]):
    """A value that a `parse_` function makes of its text."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> T | Any:
        """Parse the text; a value that is parsed already is returned."""
        return self._parse(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Word(Generic[T]):
    """One value of a list as it was typed, and what it names."""

    text: str
    values: tuple[T, ...]


class Listed(click.ParamType, Generic[T]):
    """Values with commas between them, for an option that may be repeated. parse: what one of them names."""

    def __init__(self, name: str, parse: Callable[[str], tuple[T, ...] | range]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[Word[T], ...] | Any:
        """Parse each of the values. While a shell completes a command line, none is looked up."""
        if not isinstance(value, str) or (context is not None and context.resilient_parsing):
            return value
        return tuple(Word(text, tuple(self._parse(text))) for text in map(str.strip, value.split(",")))


class EventKinds(Listed[str]):
    """Kinds of event, which a shell completes."""

    def shell_complete(self, context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The kinds that continue the last word of the list."""
        before, comma, word = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{kind}") for kind in EVENTS if kind.startswith(word.lower())]


class PositiveDuration(click.ParamType):
    """A duration in seconds, greater than zero. needs_unit: a bare number may be hours, and is refused."""

    name = "duration"

    def __init__(self, *, needs_unit: bool = False) -> None:
        self._needs_unit = needs_unit

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float | Any:
        """Parse the duration."""
        if not isinstance(value, str):
            return value
        duration_s = parse_duration(value, needs_unit=self._needs_unit)
        if duration_s <= 0:
            name = option_name(param)
            raise UsageError(f"{name} must be greater than zero", hint=f"{name} 10m")
        return duration_s


class NewRecording(click.ParamType):
    """The path of a file to record to. beside_output: events are printed on standard output as well."""

    name = "file"

    def __init__(self, *, beside_output: bool = False) -> None:
        self._beside_output = beside_output

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Path:
        """Refuse an empty name. `-` is standard output, unless that is a terminal or shows events."""
        if value == "" or value.endswith("/"):  # pathlib drops the slash: a file would take the directory's name
            name = option_name(param)
            raise UsageError(
                f"{name} needs the name of a file{f', not of a directory ({value})' if value else ''}",
                hint=f"{name} {as_argument(Path(value) / 'now.tw')}",
            )
        if value != "-":
            if value.lower().endswith(_OF_PACKETS) and not (context is not None and context.resilient_parsing):
                say(f"{value} will be a tcpwatch recording, which has no packets: Wireshark cannot read it")
            return Path(value)
        if self._beside_output:
            raise UsageError("standard output cannot have both events and a recording", hint="tcpwatch record -o -")
        if sys.stdout.isatty():
            raise UsageError(
                "refusing to print a recording on a terminal",
                hint="tcpwatch record -o now.tw, or tcpwatch record -o - | zstd > now.tw.zst",
            )
        return STANDARD_OUTPUT

    def shell_complete(self, context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files and directories."""
        return [CompletionItem(incomplete, type="file")]


class RecordedFile(click.Path):
    """A recording to read. Words of a filter expression are refused, unless there is a file of that name."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """The path."""
        if value in WORDS and not Path(value).exists():
            raise click.UsageError(f"Got unexpected extra argument ({value})", context)
        return super().convert(value, param, context)


def each(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """The `parse` of a Listed where each word is one value."""
    return lambda text: (parse(text),)


DURATION = PositiveDuration()
DURATION_WITH_UNIT = PositiveDuration(needs_unit=True)
SIZE = Parsed("size", parse_size)
BUFFER_SIZE = Parsed("size", parse_buffer_size)
RECORDED = RecordedFile()
RECORDING = NewRecording()
RECORDING_BESIDE_OUTPUT = NewRecording(beside_output=True)
PORTS: Listed[int] = Listed("port", parse_ports)
HOSTS = Listed("address", parse_hosts)
PIDS = Listed("pid", each(parse_pid))
COMMS = Listed("name", each(parse_comm))
NAMES = Listed("name", each(parse_name))
UNITS = Listed("unit", each(parse_unit))
EVENT_KINDS = EventKinds("event", each(parse_event))
