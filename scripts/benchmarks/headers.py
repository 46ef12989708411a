"""Kernel headers for bcc's tools, which tcpwatch does without."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MODULES = Path("/lib/modules")
_LEND = """
set -e
build=$(readlink -f "$2/build")
source=$(readlink -f "$2/source" || true)
mount -t tmpfs none /lib/modules
mkdir "/lib/modules/$1"
ln -s "$build" "/lib/modules/$1/build"
[ ! -d "$source" ] || ln -s "$source" "/lib/modules/$1/source"
echo lent
exec cat
"""


def are_there() -> bool:
    """Whether bcc finds headers of the running kernel by itself."""
    return (_MODULES / platform.release() / "build").exists() or Path("/sys/kernel/kheaders.tar.xz").exists()


def of_another_kernel() -> Path | None:
    """The newest /lib/modules/RELEASE of a kernel whose headers are installed."""
    found = [each.parent for each in _MODULES.glob("*/build") if each.exists()]
    return max(found, key=_numbers, default=None)


def _numbers(directory: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", directory.name)]


@contextmanager
def lent() -> Iterator[list[str]]:
    """What to put before a command so that it finds headers: nothing where they are there, or nowhere to be had.

    Else it sees those of another kernel as the running one's. Such a tool takes as long and as much as with the right
    ones; what it reads from the kernel's structs is not to be believed.
    """
    other = of_another_kernel()
    if are_there() or other is None:
        yield []
        return
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _LEND, "lend", platform.release(), str(other)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        is_lent = holder.stdout.readline() == "lent\n"
        try:
            yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"] if is_lent else []
        finally:
            holder.kill()
