"""RFC 3339 times in UTC with microseconds, as JSON and recordings have them."""

from __future__ import annotations

import calendar
import re
import time
from functools import lru_cache

MAX_TIME_NS = 253_402_300_799_999_999_000
"""The last microsecond that RFC 3339 can express: the end of the year 9999."""
_SECOND = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", re.ASCII)


class InvalidTime(ValueError):
    """A text that is not such a time."""


@lru_cache(maxsize=4)
def format_second(second: int) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, without fraction and zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def format_time(time_ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339, truncated to microseconds."""
    second, rest = divmod(time_ns, 1_000_000_000)
    return f"{format_second(second)}.{rest // 1000:06d}Z"


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of a text in the form of `format_time`. Raises InvalidTime."""
    fraction = text[20:26]
    has_form = len(text) == len("2026-11-25T03:00:00.123456Z") and text[19] == "." and text[26] == "Z"
    second = parse_second(text[:19]) if has_form and fraction.isdecimal() and fraction.isascii() else None
    if second is None:
        raise InvalidTime(f"time is {text!r:.40}")
    return second * 1_000_000_000 + int(fraction) * 1000


@lru_cache(maxsize=4)
def parse_second(text: str) -> int | None:
    """Seconds since 1970 of a text in the form of `format_second`; None for any other text."""
    match = _SECOND.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    return calendar.timegm((year, month, day, hour, minute, second))
