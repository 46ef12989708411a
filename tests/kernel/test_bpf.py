"""What the kernel turns down, and why."""

from __future__ import annotations

import errno

import pytest

from tracer.kernel.probes import Attachment, Probe
from tracer.kernel.program import syscalls
from tracer.kernel.program.compiled import Compiled, Map
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.program import Program

EXIT = bytes.fromhex("9500000000000000")
"""Without a value to return."""


def test_the_verifier_says_why() -> None:
    with pytest.raises(syscalls.Refused) as caught:
        syscalls.load("bad", syscalls.RAW_TRACEPOINT, EXIT)
    assert caught.value.errno in (errno.EACCES, errno.EPERM)
    assert "R0 !read_ok" in caught.value.log


def test_a_refused_function_is_an_error_for_people() -> None:
    hook = Attachment("raw tracepoint", "inet_sock_set_state")
    with Program(Compiled({}, {hook.function: EXIT})) as program, pytest.raises(ProgramError) as caught:
        program.attach([Probe("state", "ok", hook)])
    assert "the kernel refused the raw tracepoint inet_sock_set_state: Permission denied" in str(caught.value)
    assert "R0 !read_ok" in caught.value.log and caught.value.hint == "tcpwatch check"


def test_a_refused_map_is_an_error_for_people() -> None:
    nonsense = Map(map_type=2, key_size=3, value_size=8, max_entries=1, map_flags=0)  # an array's key has 4 bytes
    with pytest.raises(ProgramError, match="the kernel refused the map odd: Invalid argument"):
        Program(Compiled({"odd": nonsense}, {}))
