"""Compile a source with bcc, or take the compiled program from the cache."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tracer.kernel.program import cache
from tracer.kernel.program.compiled import Compiled, InvalidProgram, parse_compiled
from tracer.kernel.program.source import Source, bpf_directory
from tracer.model.errors import TcpwatchError
from tracer.model.packages import installing, upgrading

_PROCESS = Path(__file__).resolve().with_name("bcc_process.py")
LOCKED_MEMORY_HINT = "ulimit -l unlimited; tcpwatch check"
"""Before Linux 5.11 all maps and programs of a user count against the limit of locked memory."""
# bcc creates the maps when it compiles (BPFModule::create_maps(), src/cc/bpf_module.cc).
_REFUSED_MAP = re.compile("could not open bpf map: .*Operation not permitted")
OLDEST_BCC = (0, 18)
"""The oldest version that was tried: of Debian 11 and Ubuntu 22.04."""

MEMORY_HINT = "free -m; ulimit -v; cat /sys/fs/cgroup/memory.max"


def ignore(_line: str) -> None:
    """Discard a line for the user."""


class ProgramError(TcpwatchError):
    """The kernel or the compiler refused the program; `log` is what it printed."""

    def __init__(self, message: str, *, log: str, hint: str = "tcpwatch check") -> None:
        super().__init__(message, hint=hint)
        self.log = log


def compile_source(source: Source, say: Callable[[str], None] = ignore) -> Compiled:
    """Take the program from the cache, or compile and cache it. Raises the errors of `compile_afresh`."""
    cached = cache.load(source)
    if cached is not None:
        try:
            return parse_compiled(cached, is_cached=True)
        except InvalidProgram:  # truncated, or of another version
            pass
    return compile_afresh(source, say)


def compile_afresh(source: Source, say: Callable[[str], None] = ignore) -> Compiled:
    """Compile with bcc and cache the program. Raises TcpwatchError without bcc, ProgramError if the compiler fails.

    say: takes a line for the user if the program cannot be cached.
    """
    began = time.monotonic()
    run = _ask(source)
    try:
        program = parse_compiled(run.stdout)
    except InvalidProgram as error:
        raise _failure(run) from error
    try:
        cache.store(source, run.stdout)
    except cache.NotCached as error:
        say(f"each start compiles for {time.monotonic() - began:.1f}s, because {error}. Hint: {error.hint}")
    return program


def bcc_version() -> str:
    """The version of the distribution's bcc. Raises TcpwatchError if it is missing."""
    run = _ask(Source("", (), bpf_directory()))
    try:
        return str(json.loads(run.stdout)["bcc"])
    except (ValueError, KeyError) as error:
        raise _failure(run) from error


def _ask(source: Source) -> subprocess.CompletedProcess[str]:
    """Run bcc_process.py."""
    try:
        return subprocess.run(
            [sys.executable, "-I", str(_PROCESS)],
            input=json.dumps({"text": source.text, "cflags": source.cflags}),
            capture_output=True,
            # bcc needs a directory of kernel headers, and prefers this one.
            env={**os.environ, "BCC_KERNEL_SOURCE": str(source.directory)},
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd="/",  # clang needs one, and ours may have been removed
            start_new_session=True,  # ^C must not reach it
        )
    except OSError as error:
        limits: dict[int | None, str] = {
            errno.EAGAIN: "ulimit -u; cat /sys/fs/cgroup/pids.max",
            errno.ENOMEM: MEMORY_HINT,
            errno.EMFILE: "ulimit -n 1024",
        }
        raise TcpwatchError(
            f"cannot start {sys.executable or 'Python'} to compile the program: {error.strerror}",
            hint=limits.get(error.errno, f"ls -l {sys.executable or '/usr/bin/python3'}"),
        ) from error


def _failure(run: subprocess.CompletedProcess[str]) -> TcpwatchError:
    """The error for a run without a program."""
    try:
        why: dict[str, str] = json.loads(run.stdout)
    except ValueError:
        return _death(run)
    if "memory" in why:
        message = f"not enough memory to compile the program ({why['memory']})"
        return ProgramError(message, log=run.stderr, hint=MEMORY_HINT)
    if "missing" in why:
        return TcpwatchError(f"the Python package bcc is missing ({why['missing']})", hint=_get_bcc())
    if "foreign" in why:
        return TcpwatchError(
            f"the Python package bcc in {why['foreign']} is PyPI's, which is another project",
            hint=f"{sys.executable} -m pip uninstall bcc; {_get_bcc()}",
        )
    if (old := _too_old(why.get("bcc", ""))) is not None:
        return old
    if _REFUSED_MAP.search(run.stderr):
        return TcpwatchError("the kernel refused a map: Operation not permitted", hint=LOCKED_MEMORY_HINT)
    detail = next((line.strip() for line in run.stderr.splitlines() if "error:" in line), why.get("error"))
    return ProgramError(f"bcc could not compile the program: {detail}", log=run.stderr)


def _get_bcc() -> str:
    return f"{installing('python3-bpfcc')}, and run tcpwatch with /usr/bin/python3 (sudo scripts/install does both)"


def _too_old(version: str) -> TcpwatchError | None:
    """The error for a bcc that could not compile the program; None if its version is not the reason, or unknown."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= OLDEST_BCC:
        return None
    needed = ".".join(map(str, OLDEST_BCC))
    return TcpwatchError(
        f"bcc {version} is too old (expected {needed} or newer)",
        hint=f"{upgrading('python3-bpfcc')}, or a newer release of the distribution",
    )


def _death(run: subprocess.CompletedProcess[str]) -> ProgramError:
    """The error for a compiler that ended without an answer."""
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    words = f": {lines[-1]}" if lines else ""
    if run.returncode < 0:
        # Without memory, the kernel sends SIGKILL and LLVM raises SIGABRT.
        name = signal.Signals(-run.returncode).name
        message = f"the compiler was killed by {name}, probably for lack of memory{words}"
        return ProgramError(message, log=run.stderr, hint=MEMORY_HINT)
    is_memory = "MemoryError" in words or "memory" in words.lower()
    hint = MEMORY_HINT if is_memory else "tcpwatch check"
    return ProgramError(f"the compiler ended with status {run.returncode}{words}", log=run.stderr, hint=hint)
