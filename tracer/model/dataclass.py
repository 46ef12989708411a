"""`dataclass` with slots and kw_only on Python 3.9, which lacks both options (RHEL 9, Amazon Linux 2023)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.version_info >= (3, 10):
    from dataclasses import dataclass as dataclass
else:
    import dataclasses

    def dataclass(cls=None, *, slots=False, kw_only=False, **options):
        """Ignore slots and kw_only: instances take more memory, and positional arguments are not refused."""
        return dataclasses.dataclass(cls, **options)
