"""Files and directories with a fixed owner and mode, and changes that are atomic."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # include/uapi/linux/fs.h
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
STAGED = ".tcpwatch."
"""Prefix of the names of unfinished files and directories."""


def without_staged(path: Path) -> Path:
    """The path, or the directory of an unfinished file or directory in it."""
    for each in (path, *path.parents):
        if each.name.startswith(STAGED):
            return each.parent
    return path


def settle(path: Path, mode: int) -> None:
    """Set root as the owner, if we are root, and exactly this mode, without set-group-ID bit and inherited ACL."""
    if os.geteuid() == 0:
        os.chown(path, 0, 0, follow_symlinks=False)
    for name in _ACLS:
        # ENODATA: it has none. ENOTSUP: the file system has none.
        with suppress(OSError):
            os.removexattr(path, name, follow_symlinks=False)
    path.chmod(mode)


def settle_tree(tree: Path, *, programs: tuple[Path, ...]) -> None:
    """Do so for everything in the tree: directories and programs 0755, other files 0644."""
    for directory, _, names in os.walk(tree):
        for name in names:
            path = Path(directory, name)
            settle(path, 0o755 if path in programs else 0o644)
        settle(Path(directory), 0o755)


def make_directories(directory: Path) -> None:
    """Make a directory and its missing parents. Existing ones stay unchanged."""
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    settle(directory, 0o755)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of this directory, so that no other installation changes it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove what a killed installation left in this directory. The lock must be held."""
    if directory.is_dir():
        for path in directory.glob(f"{STAGED}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def stage_file(target: Path, content: bytes) -> Path:
    """A finished file beside its target, for os.replace()."""
    descriptor, name = tempfile.mkstemp(prefix=STAGED, dir=target.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    settle(Path(name), 0o644)
    return Path(name)


def stage_link(target: Path, destination: Path) -> Path:
    """A finished symbolic link beside its target, for os.replace()."""
    staged = Path(tempfile.mktemp(prefix=STAGED, dir=target.parent))
    staged.symlink_to(destination)
    return staged


def put_in_place(fresh: Path, target: Path) -> None:
    """Make the directory `fresh` the target, and the earlier target, if there was one, `fresh`."""
    if not target.exists():
        fresh.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(fresh), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
        raise OSError(number, os.strerror(number), str(target))
    # This file system cannot exchange: for a moment there is no target.
    old = set_aside(target)
    try:
        fresh.rename(target)
    except OSError:
        if old:
            old.rename(target)
        raise
    if old:
        old.rename(fresh)


def set_aside(directory: Path) -> Path | None:
    """Take its name away, at once. Returns its new name, or None where it had to be removed.

    overlayfs renames no directory of a lower layer, such as a container image's (ovl_rename(), fs/overlayfs/dir.c).
    """
    aside = Path(tempfile.mkdtemp(prefix=STAGED, dir=directory.parent))
    try:
        directory.rename(aside)
    except OSError as error:
        aside.rmdir()
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(directory)
        return None
    return aside


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer ^C, SIGTERM and SIGHUP until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
