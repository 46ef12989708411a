"""Durations and sizes as they are typed.

Each `parse_` function raises UsageError for invalid text, with the expected form.
"""

from __future__ import annotations

import re

from tracer.model.errors import UsageError

_DURATION = re.compile(
    "".join(
        rf"(?:(\d+(?:\.\d+)?)(?:{unit}))?"
        for unit in ("[dD]|days?", "[hH]|hrs?|hours?", "m|mins?|minutes?", "[sS]|secs?|seconds?", "ms|msecs?")
    ),
    re.ASCII,
)
_WEEKS = re.compile(r"(\d{1,4})w(?:eeks?)?", re.ASCII)
_WITHOUT_LAST_UNIT = re.compile(r".*\d([dhm])\d+", re.ASCII)
_NEXT_UNIT = {"d": "h", "h": "m", "m": "s"}
_DURATION_UNITS_S = (86400, 3600, 60, 1, 0.001)
_DURATION_FORM = "expected 90s, 10m, 1h30m or 2d"
_MAX_DURATION_S = 100 * 365 * 86400
_SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MIN_SIZE = 4096  # little more than a header
_MIN_RING_BYTES, _MAX_RING_BYTES = 1 << 16, 1 << 30
_MAX_SHOWN = 60
"""Characters of an invalid value that an error repeats."""


def parse_duration(text: str, *, needs_unit: bool = False) -> float:
    """Seconds of `90s`, `10m`, `1h30m`, `2d`, `800ms`. A number without a unit is seconds, unless it needs one."""
    if _SECONDS.fullmatch(text):
        if needs_unit:
            hint = shortened(f"{text}s is in seconds, {text}h in hours")
            raise UsageError(f"invalid duration {shortened(text)!r} ({_DURATION_FORM})", hint=hint)
        total_s = float(text)
    else:
        match = _DURATION.fullmatch(text)
        if not text or match is None:
            raise UsageError(f"invalid duration {shortened(text)!r} ({_DURATION_FORM})", hint=_similar_duration(text))
        parts = zip(match.groups(), _DURATION_UNITS_S)
        total_s = sum(float(part) * unit_s for part, unit_s in parts if part is not None)
    if total_s > _MAX_DURATION_S:
        raise UsageError(f"duration {shortened(text)!r} is longer than 100 years ({_DURATION_FORM})", hint="2d")
    return total_s


def _similar_duration(text: str) -> str:
    """A valid duration that may have been meant. Some programs read 10M as ten months, so it is not guessed."""
    similar = text.replace(" ", "").replace(",", ".").lower().lstrip("+-")
    similar = f"0{similar}" if similar.startswith(".") else similar
    if weeks := _WEEKS.fullmatch(similar):
        similar = f"{7 * int(weeks[1])}d"
    elif without_last := _WITHOUT_LAST_UNIT.fullmatch(similar):
        similar += _NEXT_UNIT[without_last[1]]
    is_valid = _SECONDS.fullmatch(similar) or (similar and _DURATION.fullmatch(similar))
    return shortened(similar) if is_valid else "10m"


def parse_size(text: str) -> int:
    """Bytes of `500k`, `100M`, `1G`, `100MB`, at least 4k. Case does not matter: no size is in thousandths."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _SIZE_UNITS[match[2].lower()]) if match is not None else 0
    if size < _MIN_SIZE:
        raise UsageError(f"invalid size {shortened(text)!r} (expected at least 4k)", hint="500k, 100M or 1G")
    return size


def parse_buffer_size(text: str) -> int:
    """Bytes of the kernel's ring buffer: the size that was typed, rounded up to a power of two."""
    try:
        size = parse_size(text)
    except UsageError:
        size = 0
    if not _MIN_RING_BYTES <= size <= _MAX_RING_BYTES:
        raise UsageError(f"invalid buffer size {shortened(text)!r} (expected 64k to 1G)", hint="--buffer-size 64M")
    return int(1 << (size - 1).bit_length())


def is_number(text: str) -> bool:
    """Whether the text has only the digits 0 to 9."""
    return text.isascii() and text.isdecimal()


def shortened(text: str) -> str:
    """The part of an invalid value that an error repeats."""
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
