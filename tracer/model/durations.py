"""The spelling of durations in text."""

from __future__ import annotations


def duration(ms: float) -> str:
    """A measured time, in milliseconds, in at most six characters: `840ms`, `6.2s`, `12m05s`, `1h02m`, `3d04h`."""
    if ms < 1000:
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    if seconds < 60:
        # Round down: `60.0s` is `1m00s`.
        return f"{int(seconds * 10) / 10:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def setting(seconds: int) -> str:
    """A configured time, exactly: `75s`, `5m`, `1h05m`, `2h`."""
    if seconds % 60 or seconds < 120:
        return f"{seconds}s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours and minutes else f"{hours}h" if hours else f"{minutes}m"
