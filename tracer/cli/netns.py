"""The network namespace that --netns names: by inode, by name or by path."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tracer.cli.quantities import shortened
from tracer.cli.types import Listed, each
from tracer.model.errors import UsageError

_NAMED_NETNS = Path("/run/netns")
_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h, Linux 4.11
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_FORM = "expected an inode, a name of `ip netns`, or a path such as /proc/PID/ns/net"
_HINT = "lsns -t net; ip netns"


def parse_netns(text: str) -> int:
    """The inode of a namespace: a number of `lsns -t net`, a name of `ip netns`, or a namespace file.

    Raises UsageError for anything else.
    """
    if text.isascii() and text.isdecimal():
        if len(text) <= 10 and 0 < int(text) < 1 << 32:
            return int(text)
        raise UsageError(f"invalid network namespace {shortened(text)!r} ({_FORM})", hint=_HINT)
    if not text:
        raise UsageError(f"invalid network namespace '' ({_FORM})", hint=_HINT)
    path = Path(text) if "/" in text else _NAMED_NETNS / text
    try:
        status = path.stat()
        kind = _namespace_kind(path) if stat.S_ISREG(status.st_mode) else None
    except FileNotFoundError:
        raise UsageError(f"there is no network namespace {shortened(text)!r} ({_FORM})", hint=_HINT) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "invalid name"
        raise UsageError(f"cannot open the network namespace {shortened(text)!r}: {why}", hint=_HINT) from None
    if kind != _CLONE_NEWNET:
        what = "is not a namespace" if kind is None else "is a namespace of another kind"
        raise UsageError(f"invalid network namespace: {shortened(text)!r} {what} ({_FORM})", hint=_HINT)
    return status.st_ino


def _namespace_kind(path: Path) -> int | None:
    """The CLONE_NEW flag of a namespace file; None for any other file. Raises OSError. ioctl_ns(2)."""
    import fcntl  # Windows has none, where recordings can be read

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        raise
    finally:
        os.close(descriptor)


NAMESPACES = Listed("netns", each(parse_netns))
