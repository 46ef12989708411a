"""Errors for what the kernel refuses."""

from __future__ import annotations

import errno

from tracer.kernel.program import syscalls
from tracer.kernel.program.compiler import LOCKED_MEMORY_HINT, MEMORY_HINT, ProgramError

HINTS: dict[int | None, str] = {
    errno.EPERM: LOCKED_MEMORY_HINT,
    errno.EMFILE: f"ulimit -n {syscalls.MIN_FILES}",
    errno.ENFILE: "cat /proc/sys/fs/file-nr",
    errno.ENOMEM: f"use a smaller buffer (--buffer-size 1M); {MEMORY_HINT}",
}
"""What to type, by errno."""
_RESOURCES = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def refusal(what: str, error: OSError) -> ProgramError:
    """The error for a map, a function or a hook that the kernel refuses, with the verifier's log if there is one."""
    log = error.log if isinstance(error, syscalls.Refused) and error.is_for_its_code else ""
    hint = HINTS.get(error.errno, "tcpwatch check")
    return ProgramError(f"the kernel refused {what}: {error.strerror}", log=log, hint=hint)


def is_short_of_resources(error: ProgramError) -> bool:
    """Whether descriptors or memory ran out, so that another hook would be refused too."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _RESOURCES
