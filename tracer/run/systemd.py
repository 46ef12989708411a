"""Tell systemd that every hook is attached (Type=notify)."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Send READY=1 to NOTIFY_SOCKET, if there is one: sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(b"READY=1", path)
    except OSError:
        pass  # nobody listens, and that is not what we are here for
