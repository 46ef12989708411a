"""Messages for unexpected errors: what failed, at which file or call."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from tracer.model import threads
from tracer.model.errors import TcpwatchError
from tracer.model.packages import from_pypi, installing
from tracer.model.secrets import without_secrets

DEBUG = "TCPWATCH_DEBUG"
"""The environment variable that prints tracebacks."""

_PACKAGE = str(Path(__file__).resolve().parents[1])
_MEMORY_HINT = "free -m; ulimit -v; see also the memory limit of the container or of the systemd unit"
_LIMITS = {
    errno.ENOMEM: _MEMORY_HINT,
    errno.EMFILE: "ulimit -n 1024",
    errno.EAGAIN: "ulimit -u; cat /sys/fs/cgroup/pids.max",
    errno.ENFILE: "cat /proc/sys/fs/file-nr",
    errno.ENOSPC: "df -h",
    errno.EDQUOT: "quota",
    errno.EFBIG: "ulimit -f unlimited",
    errno.EROFS: "mount | grep -w ro",
    errno.EPERM: "run tcpwatch as root, outside of a sandbox (container, seccomp, SELinux, AppArmor)",
    errno.EACCES: "run tcpwatch as root, outside of a sandbox (container, seccomp, SELinux, AppArmor)",
}
# Texts of the dynamic loader and of Python for a lack of memory (elf/dl-load.c in glibc; Modules/_threadmodule.c).
_LOADER_MEMORY = ("failed to map segment", "cannot allocate memory", "cannot create shared object descriptor")
# click 8.0 refuses to run then (_verify_python_env() in click/_unicodefun.py). Python sets UTF-8 where LC_ALL is C.
_ASCII = "configured to use ASCII as encoding"
_NO_THREAD = "can't start new thread"
_DEBIAN_PACKAGES = {"click": "python3-click", "tabulate": "python3-tabulate", "bcc": "python3-bpfcc"}

_OLDEST = {"click": "8.0"}
"""The oldest versions that work, as in pyproject.toml, of packages that fail to import when they are older."""


def explain(error: BaseException, arguments: Sequence[str] = ()) -> TcpwatchError:
    """The message and hint for any error. A limit of the host is named; anything else is a bug in tcpwatch.

    arguments: the command line, for the hint with the command that prints a traceback.
    """
    if isinstance(error, TcpwatchError):
        return error
    if is_memory(error):
        return TcpwatchError(f"not enough memory ({_place(error)})", hint=_MEMORY_HINT)
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return TcpwatchError(
            f"cannot start a thread: the limit of threads or of memory is reached ({_place(error)})",
            hint=threads.HINT,
        )
    if isinstance(error, RuntimeError) and _ASCII in str(error):
        return TcpwatchError("the locale has no characters but ASCII", hint="LC_ALL=C.UTF-8 tcpwatch --help")
    if isinstance(error, ModuleNotFoundError) and error.name is not None and not error.name.startswith("tracer"):
        package = error.name.partition(".")[0]
        return TcpwatchError(
            f"the Python package {package} is missing",
            hint=installing(_DEBIAN_PACKAGES.get(package, f"python3-{package}")),
        )
    if isinstance(error, ImportError) and error.name is not None and error.name.partition(".")[0] in _OLDEST:
        package = error.name.partition(".")[0]
        needed = _OLDEST[package]
        return TcpwatchError(
            f"the Python package {package} {version(package)} is too old (expected {needed} or newer)",
            hint=from_pypi(package, needed),
        )
    if isinstance(error, OSError) and error.errno in _LIMITS:
        return TcpwatchError(f"{_named(error)} ({_place(error)})", hint=_LIMITS[error.errno])
    what = _named(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}".removesuffix(": ")
    command = shlex.join(["tcpwatch", *without_secrets(arguments)])
    return TcpwatchError(
        f"{what} ({_place(error)}); this is a bug in tcpwatch",
        hint=f"please report it with the output of: sudo {DEBUG}=1 {command}",
    )


def is_memory(error: BaseException) -> bool:
    """Whether the error is a lack of memory. The dynamic loader reports it only by its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    is_loaders = isinstance(error, (ImportError, OSError)) and any(words in str(error) for words in _LOADER_MEMORY)
    return isinstance(error, MemoryError) or is_loaders


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def print_traceback(error: BaseException) -> None:
    """Print the traceback and the log of the compiler or verifier on stderr, if the user asked for tracebacks."""
    if wants_traceback() and sys.stderr is not None:
        traceback.print_exception(error)
        if log := getattr(error, "log", ""):
            print(log, file=sys.stderr)


def _named(error: OSError) -> str:
    """`Permission denied: /etc/shadow`."""
    what = error.strerror or str(error) or type(error).__name__
    files = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, (str, bytes))]
    return ": ".join([what, *files])


def _place(error: BaseException) -> str:
    """The place in tcpwatch: `in kernel/owners.py line 40, keep`."""
    place = "before tcpwatch started"
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(_PACKAGE + os.sep):
            file = code.co_filename[len(_PACKAGE) + 1 :]
            place = f"in {file} line {trace.tb_lineno}, {code.co_name}"
        trace = trace.tb_next
    return place


def thread_failed(arguments: threading.ExceptHookArgs) -> TcpwatchError | None:
    """The message for an error that ended a thread; None for a normal end."""
    if arguments.exc_value is None or isinstance(arguments.exc_value, SystemExit):
        return None
    print_traceback(arguments.exc_value)
    return explain(arguments.exc_value, sys.argv[1:])
