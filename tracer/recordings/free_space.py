"""What is left on a disk, as far as its filesystem reports it."""

from __future__ import annotations

import os
from pathlib import Path


def bytes_left(directory: Path) -> float:
    """Bytes that a file in the directory may grow by; infinite if that is not known."""
    status = _status(directory)
    return status.f_bavail * status.f_frsize if status is not None and status.f_blocks else float("inf")


def has_inodes(directory: Path) -> bool:
    """Whether another file can be created in the directory; True if that is not known."""
    status = _status(directory)
    return status is None or status.f_favail > 0 or not status.f_files


def _status(directory: Path) -> os.statvfs_result | None:
    try:
        return os.statvfs(directory)
    except OSError:
        return None
