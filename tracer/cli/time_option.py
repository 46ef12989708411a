"""--since and --until: the times that are typed, and the window that they choose in the FILEs.

A time without a zone is in the time zone of the recorded host, as the output shows it. `-10m` counts from the last
event of all FILEs: a recording is mostly read long after it was made.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from tracer.cli.quantities import parse_duration, shortened
from tracer.cli.types import Parsed
from tracer.model.dataclass import dataclass
from tracer.model.errors import UsageError
from tracer.model.window import Window
from tracer.recordings.extent import Extent, can_be_read_twice, extent_of

_DAY_S = 86_400
_SECOND_NS = 1_000_000_000
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)
_OTHER_CLOCK = re.compile(r"(\d{1,2})(?:[.:](\d\d))?(am|pm)?", re.ASCII)
_EPOCH = re.compile(r"\d{10}", re.ASCII)
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?\s?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII
)
_FORMS = "expected 14:02, '2026-11-27 14:02', 2026-11-27T14:02:30Z or -10m"
Command = TypeVar("Command", bound=Callable[..., Any])


class Moment(Protocol):
    """A time as it was typed."""

    @property
    def text(self) -> str:
        """What was typed."""

    def at(self, extent: Extent | None, not_before_ns: int | None) -> int:
        """Nanoseconds since 1970. extent: of the recordings, where it is needed. not_before_ns: --since."""


@dataclass(frozen=True, slots=True)
class Instant:
    """A time with its zone."""

    text: str
    time_ns: int

    def at(self, extent: Extent | None, not_before_ns: int | None) -> int:
        """The time itself."""
        return self.time_ns


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A date and time of day on the recorded host. time_ns: as if its zone was UTC."""

    text: str
    time_ns: int

    def at(self, extent: Extent | None, not_before_ns: int | None) -> int:
        """The instant. Raises UsageError where the hosts are in different time zones."""
        assert extent is not None
        return self.time_ns - _offset_ns(self.text, extent)


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time of day on the recorded host. day_ns: since midnight."""

    text: str
    day_ns: int

    def at(self, extent: Extent | None, not_before_ns: int | None) -> int:
        """With not_before_ns, the first such time from then on. Otherwise the last one within the recordings.

        If they contain none, the one that is nearest to them. Raises UsageError where the hosts are in different time
        zones.
        """
        assert extent is not None
        day = _DAY_S * _SECOND_NS
        since_midnight_ns = self.day_ns - _offset_ns(self.text, extent)
        if not_before_ns is not None:
            return not_before_ns + (since_midnight_ns - not_before_ns) % day
        before_ns = extent.ended_ns - (extent.ended_ns - since_midnight_ns) % day
        after_ns = before_ns + day
        is_near = extent.started_ns - before_ns <= after_ns - extent.ended_ns
        return before_ns if before_ns >= extent.started_ns or is_near else after_ns


@dataclass(frozen=True, slots=True)
class BeforeTheEnd:
    """A time before the last event of the recordings."""

    text: str
    duration_ns: int

    def at(self, extent: Extent | None, not_before_ns: int | None) -> int:
        """The instant."""
        assert extent is not None
        return extent.ended_ns - self.duration_ns


def _offset_ns(text: str, extent: Extent) -> int:
    if len(extent.utc_offsets_s) > 1:
        raise UsageError(
            f"the recordings are from different time zones, so the time {text!r} is ambiguous (expected a time with "
            "its zone)",
            hint="2026-11-27T14:02:00Z or 2026-11-27T14:02:00+01:00",
        )
    return max(extent.utc_offsets_s, default=0) * _SECOND_NS


def parse_moment(text: str) -> Moment:
    """The time that a text names. Raises UsageError for any other text."""
    try:
        if match := _CLOCK.fullmatch(text):
            hour, minute, second = (int(part or 0) for part in match.groups()[:3])
            moment = datetime(1970, 1, 1, hour, minute, second)
            return TimeOfDay(text, _utc_ns(moment, match[4]))
        if match := _DATE.fullmatch(text):
            moment = datetime(*(int(part or 0) for part in match.groups()[:6]))  # type: ignore[arg-type]
            time_ns = _utc_ns(moment, match[7])
            if moment.year < 1970:
                raise ValueError
            if match[8] is None:
                return LocalTime(text, time_ns)
            return Instant(text, time_ns - _zone_s(match[8]) * _SECOND_NS)
        if text.startswith("-"):
            return BeforeTheEnd(text, round(parse_duration(text[1:]) * _SECOND_NS))
    except (ValueError, UsageError):
        pass
    raise UsageError(f"invalid time {shortened(text)!r} ({_FORMS})", hint=_hint(text))


def _hint(text: str) -> str:
    """A time that may have been meant: `10 min ago`, `14.02`, `2pm`, seconds since 1970."""
    ago = re.sub(r"\s*ago$", "", text.strip().lower()).replace(" ", "").lstrip("+")
    if match := _OTHER_CLOCK.fullmatch(ago):
        hour, minute = int(match[1]) % 12 if match[3] else int(match[1]), int(match[2] or 0)
        hour += 12 if match[3] == "pm" else 0
        if match[2] or match[3]:
            return f"--since {hour:02d}:{minute:02d}" if hour < 24 and minute < 60 else "--since 14:02"
    if _EPOCH.fullmatch(ago):
        return f"--since {datetime.fromtimestamp(int(ago), timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    try:
        parse_duration(ago)
    except UsageError:
        return "--since 14:02"
    return f"--since -{shortened(ago)} counts from the end of the recording"


def _utc_ns(moment: datetime, fraction: str | None) -> int:
    return calendar.timegm(moment.timetuple()) * _SECOND_NS + int((fraction or "").ljust(9, "0"))


def _zone_s(zone: str) -> int:
    if zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError
    return (-1 if zone[0] == "-" else 1) * (hours * 3600 + minutes * 60)


MOMENT = Parsed("time", parse_moment)


def window_options(command: Command) -> Command:
    """Add --since and --until. The command gets both as Moment or None; `make_window` turns them into a Window."""
    for option in (
        click.option("--until", metavar="TIME", type=MOMENT, help="Only what precedes TIME."),
        click.option(
            "--since",
            metavar="TIME",
            type=MOMENT,
            help="Only what follows TIME, and stalls that are open then: 14:02, '2026-11-27 14:02', "
            "2026-11-27T14:02:30Z, or -10m for ten minutes before the last event.",
        ),
    ):
        command = option(command)
    return command


def make_window(since: Moment | None, until: Moment | None, files: Sequence[Path], *, command: str) -> Window:
    """The window in these files. Raises UsageError if it cannot be found, or if it is empty."""
    typed = [moment for moment in (since, until) if moment is not None and not isinstance(moment, Instant)]
    extent = None
    if typed:
        name = "--since" if typed[0] is since else "--until"
        pipe = next((file for file in files if not can_be_read_twice(file)), None)
        if pipe is not None:
            raise UsageError(
                f"{name} {shortened(typed[0].text)} refers to the end of the recording, which is unknown while "
                f"{'standard input' if str(pipe) == '-' else pipe} is read (expected a time with its zone)",
                hint=f"{name} 2026-11-27T14:02:00Z, or store the recording in a file first",
            )
        extent = extent_of(files, command=command)
        if extent is None:
            return Window()  # there is nothing to read, which is reported soon
    since_ns = None if since is None else since.at(extent, None)
    until_ns = None if until is None else until.at(extent, since_ns)
    if since is not None and until is not None and until_ns is not None and (since_ns or 0) > until_ns:
        raise UsageError(
            f"--until {shortened(until.text)} precedes --since {shortened(since.text)}",
            hint=f"--since {shortened(until.text)} --until {shortened(since.text)}",
        )
    return Window(since_ns, until_ns)
