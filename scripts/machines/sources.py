"""The Debian archives that this machine's apt is set up with, /etc/apt/sources.list and sources.list.d.

Reads both formats of sources.list(5), one-line and deb822. A suite that the machine itself does not use is expected
on the same host under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from machines.errors import MachineError

_APT = Path("/etc/apt")
_RELEASES = "buster|bullseye|bookworm|trixie|forky|duke|sid|stable|oldstable|oldoldstable|testing|unstable"
_MAIN = re.compile(rf"({_RELEASES})(-updates|-proposed-updates|-backports(-sloppy)?)?")
_SECURITY = re.compile(rf"({_RELEASES})(-security|/updates)")
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.*)")
_EXAMPLE = (
    "write the address of your Debian mirror to /etc/apt/sources.list: "
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] URI {suite} main"
)


@dataclass(frozen=True)
class Archive:
    """One archive of Debian packages. uri: as apt takes it.

    signed_by: the value of Signed-By, a file, fingerprints or a key in several lines; empty for Debian's own keyring.
    is_trusted: its signatures are not checked (trusted=yes).
    """

    uri: str
    signed_by: str = ""
    is_trusted: bool = False

    def address(self) -> str:
        """The address for programs that cannot read apt's lists of mirrors. Raises MachineError if there is none."""
        method, _, rest = self.uri.partition(":")
        if method == "mirror+file":
            return _first_of(Path("/" + rest.lstrip("/")))
        if method == "mirror" or "+" in method:
            raise MachineError(
                f"debootstrap cannot use {self.uri}", hint="add a source with a plain http:// or https:// address"
            )
        return self.uri


@dataclass(frozen=True)
class _Entry:
    archive: Archive
    suites: tuple[str, ...]
    components: tuple[str, ...]


def archive_for(suite: str, apt: Path = _APT) -> Archive:
    """The archive that has a suite: the security archive for bookworm-security and its like, else the main one.

    An archive is taken for Debian's if it has a Debian suite and the component main. Some third parties use the same
    names, so the one with the most Debian suites wins, and among equals the first. Raises MachineError without any.
    """
    pattern = _SECURITY if _SECURITY.fullmatch(suite) else _MAIN
    suites_of: dict[Archive, set[str]] = {}
    for entry in _entries(apt):
        if "main" in entry.components:
            matching = {each for each in entry.suites if pattern.fullmatch(each)}
            suites_of.setdefault(entry.archive, set()).update(matching)
    best = max(suites_of, key=lambda archive: len(suites_of[archive]), default=None)
    if best is None or not suites_of[best]:
        raise MachineError(
            f"no Debian source for {suite} in {apt}/sources.list and {apt}/sources.list.d",
            hint=_EXAMPLE.format(suite=suite),
        )
    return best


def _entries(apt: Path) -> Iterator[_Entry]:
    """In apt's order: sources.list, then sources.list.d by name. Disabled entries and deb-src are left out."""
    parts = sorted((apt / "sources.list.d").glob("*"))
    for path in [apt / "sources.list", *(each for each in parts if each.suffix in (".list", ".sources"))]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from _deb822(text) if path.suffix == ".sources" else _one_line(text)


def _one_line(text: str) -> Iterator[_Entry]:
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match and not match["uri"].startswith("cdrom:"):
            options = dict(word.partition("=")[::2] for word in (match["options"] or "").split())
            archive = _archive(match["uri"], options.get("signed-by", ""), options.get("trusted", ""))
            yield _Entry(archive, (match["suite"],), tuple(match["components"].split()))


def _deb822(text: str) -> Iterator[_Entry]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = _fields(stanza.splitlines())
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in _NO:
            continue
        for uri in fields.get("uris", "").split():
            archive = _archive(uri, fields.get("signed-by", ""), fields.get("trusted", ""))
            yield _Entry(
                archive, tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
            )


_YES, _NO = {"yes", "true", "with", "on", "enable", "1"}, {"no", "false", "without", "off", "disable", "0"}


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """Values by their names in lower case; a value goes on in lines that begin with a space."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + "\n" + line.rstrip()
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _archive(uri: str, signed_by: str, trusted: str) -> Archive:
    return Archive(uri.rstrip("/"), signed_by, trusted.lower() in _YES)


def _first_of(mirrors: Path) -> str:
    """The first address in a list of mirrors (apt-transport-mirror(1))."""
    try:
        lines = mirrors.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise MachineError(
            f"cannot read the list of mirrors {mirrors}: {error.strerror}", hint=f"ls -l {mirrors}"
        ) from error
    for line in lines:
        words = line.partition("#")[0].split()
        if words:
            return words[0].rstrip("/")
    raise MachineError(f"the list of mirrors {mirrors} is empty", hint=f"cat {mirrors}")
