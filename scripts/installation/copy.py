"""The copy of the tree that is installed: its files, and a command that needs nothing else of the tree."""

from __future__ import annotations

import compileall
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from installation import files
from installation.errors import InstallError
from installation.places import Places
from tracer.model.packages import installing

_PYTHON = "/usr/bin/python3"
# As [tool.setuptools.package-data] of pyproject.toml has it.
_SOURCES = ("LICENSE", "*.c", "*.h", "include/**/*.h")
# -I: root imports nothing from the current directory or from paths in the environment.
# Until tcpwatch handles ^C itself, ^C ends it at once, without a traceback of Python.
_COMMAND = f"""#!{_PYTHON} -I
import os
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../library"))
from tracer.__main__ import main

main()
"""


def fill(fresh: Path, tree: Path, places: Places) -> None:
    """Put everything into the directory `fresh`, which is going to be places.home."""
    command = lay_out(fresh, tree)
    library = fresh / "library"
    _copy(tree / "LICENSE", fresh / "LICENSE")
    final = str(places.home / "library")
    if not compileall.compile_dir(library, quiet=2, stripdir=str(library), prependdir=final):
        raise InstallError(f"{_PYTHON} could not compile {tree / 'tracer'}", f"df -h {fresh}")
    files.settle_tree(fresh, programs=(command,))


def lay_out(fresh: Path, tree: Path) -> Path:
    """Copy the modules and the programs of the kernel into the directory `fresh`. Returns the path of the command.

    Caches, backups of editors and whatever else lies about in the tree is left out.
    """
    library = fresh / "library"
    for source in _modules(tree):
        _copy(source, library / source.relative_to(tree))
    for pattern in _SOURCES:
        for source in sorted((tree / "bpf").glob(pattern)):
            if _is_ours(source):
                _copy(source, library / "tracer" / source.relative_to(tree))
    command = fresh / "bin/tcpwatch"
    command.parent.mkdir()
    command.write_text(_COMMAND, encoding="ascii")
    return command


def try_out(fresh: Path) -> str:
    """What the copy answers to --version. Raises InstallError where it does not run."""
    if os.statvfs(fresh).f_flag & os.ST_NOEXEC:
        raise InstallError(
            f"{fresh.parent} is mounted noexec, so no program can run there", f"findmnt --target {fresh.parent}"
        )
    return _answer(fresh, "--version").strip()


def completion(fresh: Path, shell: str) -> bytes:
    """The completion script for a shell. Raises InstallError where the copy does not run."""
    return _answer(fresh, "completion", shell).encode()


def _answer(fresh: Path, *arguments: str) -> str:
    """What the copy prints on standard output."""
    command = [_PYTHON, "-I", "-B", str(fresh / "bin/tcpwatch"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise InstallError(
            "the new copy does not run, so nothing was changed",
            installing("python3-bpfcc", "python3-click", "python3-tabulate"),
        )
    return done.stdout


def _modules(tree: Path) -> Iterator[Path]:
    found = [path for path in sorted((tree / "tracer").rglob("*.py")) if _is_ours(path)]
    if not found:
        raise InstallError(f"{tree} has no tracer/*.py: it is not a whole tree", f"ls {tree}/tracer")
    yield from found


def _is_ours(path: Path) -> bool:
    """Not Emacs' lock, a link named `.#cli.py`, nor anything else that is hidden."""
    return path.name[0] not in ".#" and stat.S_ISREG(path.lstat().st_mode)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
