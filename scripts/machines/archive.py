"""Debian packages through apt, one suite at a time, in a private state directory."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from machines.errors import MachineError
from machines.sources import Archive, archive_for

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_FRESH_S = 3600


class Suite:
    """One suite, such as bookworm-security: its packages, from the archive that this machine is set up with.

    Raises MachineError where this machine has no Debian source, or apt fails.
    """

    def __init__(self, name: str, cache: Path, architecture: str = "amd64") -> None:
        self.name = name
        self._state = cache / "apt" / f"{architecture}.{name}"
        for part in ("lists/partial", "cache/archives/partial", "parts"):
            (self._state / part).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        self._stamp = self._state / "updated"
        self._set_source(_source(name, archive_for(name)))
        settings = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": self._state / "parts",
            "Dir::State": self._state,
            "Dir::State::lists": self._state / "lists",
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": 3,
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        self._update()

    def _run(self, tool: str, *arguments: str, directory: Path | None = None) -> str:
        done = subprocess.run(
            [tool, *self._options, *arguments],
            capture_output=True, text=True, cwd=directory, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode != 0:
            raise MachineError(f"{tool} {arguments[0]} failed for {self.name}: {_last(done.stderr)}")
        return done.stdout

    def _set_source(self, text: str) -> None:
        """Write apt's source. What was downloaded from another one is out of date."""
        path = self._state / "parts/suite.sources"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            self._stamp.unlink(missing_ok=True)
            path.write_text(text, encoding="utf-8")

    def _update(self) -> None:
        if self._stamp.exists() and time.time() - self._stamp.stat().st_mtime < _FRESH_S:
            return
        self._run("apt-get", "update", "-qq")
        self._stamp.touch()

    def names(self, prefix: str) -> list[str]:
        """Names of packages with this prefix; the archive may no longer have some of them (see `has`)."""
        return self._run("apt-cache", "pkgnames", prefix).split()

    def has(self, package: str) -> bool:
        """Whether the archive has the package: apt also lists names that appear only in dependencies."""
        return bool(self._run("apt-cache", "madison", package).strip())

    def depends(self, package: str) -> str:
        """The Depends line of a package, empty if it has none."""
        found = re.search(r"^Depends: (.*)$", self._run("apt-cache", "show", package), re.MULTILINE)
        return found[1] if found else ""

    def unpack(self, packages: Iterable[str], into: Path) -> None:
        """Download the packages and unpack them without running their scripts."""
        debs = into / "debs"
        debs.mkdir(parents=True)
        self._run("apt-get", "download", "-qq", *packages, directory=debs)
        for deb in sorted(debs.iterdir()):
            subprocess.run(["dpkg-deb", "--extract", deb, into], check=True)
            deb.unlink()
        debs.rmdir()


def _source(suite: str, archive: Archive) -> str:
    """The source of one suite, as deb822: unlike the one-line format, it holds a Signed-By of several lines."""
    lines = [
        "Types: deb",
        f"URIs: {archive.uri}",
        f"Suites: {suite}",
        "Components: main",
        f"Signed-By: {archive.signed_by or _KEYRING}",
        "Check-Valid-Until: no",
    ]
    if archive.is_trusted:
        lines.append("Trusted: yes")
    return "\n".join(lines) + "\n"


def _last(output: str) -> str:
    """The last line, without addresses: they may hold a password."""
    lines = [line for line in output.splitlines() if line.strip()]
    return re.sub(r"https?://\S+", "the mirror", lines[-1]) if lines else "no output"
