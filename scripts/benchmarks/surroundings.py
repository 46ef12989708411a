"""What other BPF tools need, unlike tcpwatch: kernel headers, tracefs."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MODULES = Path("/lib/modules")
# $1: the release of the kernel, $2: a directory with headers, or nothing.
_LEND = """
set -e
mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
if [ -n "$2" ]; then
    build=$(readlink -f "$2/build")
    source=$(readlink -f "$2/source" || true)
    mount -t tmpfs none /lib/modules
    mkdir "/lib/modules/$1"
    ln -s "$build" "/lib/modules/$1/build"
    [ ! -d "$source" ] || ln -s "$source" "/lib/modules/$1/source"
fi
echo lent
exec cat
"""


def borrowed_headers() -> Path | None:
    """The newest /lib/modules/RELEASE with headers; None if those of the running kernel are installed."""
    if (_MODULES / platform.release() / "build").exists() or Path("/sys/kernel/kheaders.tar.xz").exists():
        return None
    found = [each.parent for each in _MODULES.glob("*/build") if each.exists()]
    return max(found, key=_numbers, default=None)


def _numbers(directory: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", directory.name)]


@contextmanager
def lent() -> Iterator[list[str]]:
    """What to put before a command so that it finds tracefs, debugfs and headers, in a mount namespace of its own.

    Where those of the running kernel are not to be had it sees another one's. Such a tool takes as long and as much
    as with the right ones; what it reads from the kernel's structs is not to be believed.
    """
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _LEND, "lend", platform.release(), str(borrowed_headers() or "")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        is_lent = holder.stdout.readline() == "lent\n"
        try:
            yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"] if is_lent else []
        finally:
            holder.kill()
