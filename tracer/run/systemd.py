"""The start-up notification of a systemd service (Type=notify)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def ready() -> None:
    """Send READY=1 to NOTIFY_SOCKET, if it is set: sd_notify(3). Errors are ignored: tracing works without it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):  # an abstract socket: unix(7)
        path = "\0" + path[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", path)
