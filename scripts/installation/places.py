"""Paths of an installation, and whether installing there is safe."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from installation.errors import InstallError


@dataclass(frozen=True)
class Places:
    """Paths below root, which is `/` or the directory of --prefix."""

    root: Path

    @property
    def is_system(self) -> bool:
        """Whether this is the running system, so that its systemd is to be used."""
        return self.root == Path("/")

    @property
    def home(self) -> Path:
        """The copy."""
        return self.root / "opt/tcpwatch"

    @property
    def command(self) -> Path:
        """A link into the copy."""
        return self.root / "usr/local/bin/tcpwatch"

    @property
    def manual(self) -> Path:
        """The manual page."""
        return self.root / "usr/local/share/man/man8/tcpwatch.8"

    @property
    def units(self) -> Path:
        """The directory of the systemd units."""
        return self.root / "usr/local/lib/systemd/system"

    @property
    def completions(self) -> dict[str, Path]:
        """The completion scripts, by shell. Each shell looks there by itself, for the name of the command."""
        share = self.root / "usr/local/share"
        return {
            "bash": share / "bash-completion/completions/tcpwatch",
            "zsh": share / "zsh/site-functions/_tcpwatch",
            "fish": share / "fish/vendor_completions.d/tcpwatch.fish",
        }

    @property
    def cache(self) -> Path:
        """The compiled programs that tcpwatch stores."""
        return self.root / "var/cache/tcpwatch"

    @property
    def recordings(self) -> tuple[Path, ...]:
        """The directories with the recordings of the units. They are never removed."""
        return self.root / "var/log/tcpwatch", self.root / "var/log/tcpwatch-compact"

    @property
    def admin_units(self) -> Path:
        """The administrator's directory of systemd units, where `systemctl edit` writes."""
        return self.root / "etc/systemd/system"

    @property
    def settings(self) -> Path:
        """The administrator's options of tcpwatch-protect@.service. They are never removed."""
        return self.root / "etc/tcpwatch"

    def parents(self) -> list[Path]:
        """The directories that the parts are put into."""
        parts = (self.home, self.command, self.manual, *self.completions.values())
        return [self.units, *(path.parent for path in parts)]


def refuse_foreign(places: Places) -> None:
    """Raise InstallError if a foreign file has one of the names."""
    home, command = places.home, places.command
    wanted = str(home / "bin/tcpwatch")
    if os.path.lexists(command) and not (command.is_symlink() and str(command.readlink()) == wanted):
        raise InstallError(f"{command} is not ours, and is left alone", f"ls -l {shlex.quote(str(command))}")
    if home.is_symlink():
        raise InstallError(f"{home} is a symbolic link, and is left alone", f"ls -l {shlex.quote(str(home))}")
    if os.path.lexists(home) and not (home / "bin/tcpwatch").is_file():
        raise InstallError(f"{home} is not ours, and is left alone", f"ls -l {shlex.quote(str(home))}")


def check_directories(places: Places) -> Iterator[str]:
    """Look at every directory above the parts that is there already.

    Yields warnings. Raises InstallError where any user could replace what root is going to run.
    """
    is_reachable = True
    for directory in _existing(places.parents()):
        quoted, status = shlex.quote(str(directory)), directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise InstallError(f"{directory} is not a directory", f"ls -ld {quoted}")
        mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
        sticky = mode & stat.S_ISVTX
        if mode & stat.S_IWOTH and not sticky:
            raise InstallError(
                f"every user can write to {directory} (mode {mode:04o}), and could replace tcpwatch there",
                f"sudo chmod o-w {quoted}",
            )
        if owner not in (0, os.geteuid()):
            what = f"{directory} belongs to {_user(owner)}, who can replace tcpwatch there"
            if places.is_system:
                raise InstallError(what, f"sudo chown root: {quoted}")
            yield f"warning: {what}"
        if mode & stat.S_IWGRP and status.st_gid != 0 and not sticky:
            yield f"warning: the group of {directory} can write to it, and replace tcpwatch there"
        if is_reachable and not mode & stat.S_IXOTH:
            is_reachable = False
            yield f"warning: other users cannot enter {directory} (mode {mode:04o}), so they cannot run tcpwatch"


def _existing(directories: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for directory in directories:
        for each in (directory, *directory.parents):
            if each.exists():
                found[each.resolve()] = None
                found.update(dict.fromkeys(each.resolve().parents))
    return sorted(found)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
