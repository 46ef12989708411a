"""Debian's archive through apt, one suite at a time, in a private state directory."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from machines.errors import MachineError

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCES = Path("/etc/apt")
_FRESH_S = 3600
_DEFAULT = {"debian": "http://deb.debian.org/debian", "debian-security": "http://security.debian.org/debian-security"}


def mirror(kind: str, sources: Path = _SOURCES) -> str:
    """Where this host gets `debian` or `debian-security` from; Debian's own address where it has neither."""
    for uri in _configured(sources):
        if uri.rstrip("/").endswith(f"/{kind}"):
            return uri
    return _DEFAULT[kind]


def _configured(sources: Path) -> Iterable[str]:
    for path in sorted((sources / "sources.list.d").glob("*.sources")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("uris:"):
                yield from line.split()[1:]
    for path in [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*.list"))]:
        if path.exists():
            yield from re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)


class Suite:
    """One suite, such as bookworm-security: what it has, and its packages. Raises MachineError where apt fails."""

    def __init__(self, name: str, cache: Path, architecture: str = "amd64") -> None:
        self.name = name
        self._state = cache / "apt" / f"{architecture}.{name}"
        for part in ("lists/partial", "cache/archives/partial", "parts"):
            (self._state / part).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        kind = "debian-security" if name.endswith("-security") else "debian"
        options = f"signed-by={_KEYRING} check-valid-until=no"
        (self._state / "sources.list").write_text(f"deb [{options}] {mirror(kind)} {name} main\n", encoding="utf-8")
        settings = {
            "Dir::Etc::SourceList": self._state / "sources.list",
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

    def _update(self) -> None:
        stamp = self._state / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH_S:
            return
        self._run("apt-get", "update", "-qq")
        stamp.touch()

    def names(self, prefix: str) -> list[str]:
        """Names of packages that begin like that; some may be gone from the archive (see `has`)."""
        return self._run("apt-cache", "pkgnames", prefix).split()

    def has(self, package: str) -> bool:
        """Whether the archive really has it: apt knows names that others only depend on."""
        return bool(self._run("apt-cache", "madison", package).strip())

    def depends(self, package: str) -> str:
        """Its Depends line, empty without one."""
        found = re.search(r"^Depends: (.*)$", self._run("apt-cache", "show", package), re.MULTILINE)
        return found[1] if found else ""

    def unpack(self, packages: Iterable[str], into: Path) -> None:
        """Download the packages and unpack them, without running anything of theirs."""
        debs = into / "debs"
        debs.mkdir(parents=True)
        self._run("apt-get", "download", "-qq", *packages, directory=debs)
        for deb in sorted(debs.iterdir()):
            subprocess.run(["dpkg-deb", "--extract", deb, into], check=True)
            deb.unlink()
        debs.rmdir()


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return re.sub(r"https?://\S+", "the mirror", lines[-1]) if lines else "it said nothing"
