"""The systemd units: an upgrade keeps one that was edited, and a removal stops it first."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installation.errors import InstallError
from installation.places import Places

_SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)


@dataclass(frozen=True)
class Unit:
    """A unit of scripts/. instances: what systemctl calls those that run. restarted: what a restart does."""

    name: str
    instances: str
    restarted: str

    @property
    def is_template(self) -> bool:
        """Whether only its instances run."""
        return self.name != self.instances

    def path(self, places: Places) -> Path:
        """Where it is installed."""
        return places.units / self.name

    def shipped_copy(self, places: Places) -> Path:
        """Path of the new unit if the old one was edited."""
        return places.units / f"{self.name}.dist"

    def record(self, home: Path) -> Path:
        """In the copy, the file with the digest of the unit that was installed with it."""
        return home / f"{self.name}.sha256"

    def overrides(self, places: Places) -> tuple[Path, Path]:
        """What `systemctl edit` and `systemctl edit --full` write."""
        return places.admin_units / f"{self.name}.d", places.admin_units / self.name

    def is_edited(self, places: Places, shipped: bytes) -> bool:
        """Whether the existing unit differs from the installed one and from the new one."""
        unit = self.path(places)
        if not os.path.lexists(unit):
            return False
        if unit.is_symlink() or not unit.is_file():
            return True
        content = unit.read_bytes()
        return content != shipped and digest(content) != self._installed(places)

    def _installed(self, places: Places) -> str:
        try:
            return self.record(places.home).read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def is_active(self) -> bool:
        """Whether it, or an instance, runs."""
        return subprocess.run(["systemctl", "--quiet", "is-active", self.instances], check=False).returncode == 0


UNITS = (
    Unit("tcpwatch.service", "tcpwatch.service", "it records into a new file"),
    Unit("tcpwatch-compact.service", "tcpwatch-compact.service", "it records into a new file"),
    Unit("tcpwatch-protect@.service", "tcpwatch-protect@*.service", "what they have set stays set"),
)


def digest(content: bytes) -> str:
    """What `Unit.record` keeps of a unit."""
    return hashlib.sha256(content).hexdigest()


def renew(places: Places) -> Iterator[str]:
    """After an upgrade: let systemd read the units, and restart those that run. Yields what was done.

    The old process would import what it has not imported yet from the new copy.
    """
    if not (places.is_system and _SYSTEMD_RUNS.is_dir() and shutil.which("systemctl")):
        return
    _systemctl("daemon-reload", hint="sudo systemctl daemon-reload")
    for unit in UNITS:
        if unit.is_active():
            _systemctl("try-restart", unit.instances, hint=f"systemctl status '{unit.instances}'")
            yield f"restarted {unit.instances}: {unit.restarted}"


def stop(places: Places) -> Iterator[str]:
    """Before a removal: stop and disable them. Yields what was done. Raises InstallError where systemd refuses."""
    if not (places.is_system and shutil.which("systemctl")):
        return
    # Without a running systemd `disable` still removes the links that would start it at the next boot.
    runs = _SYSTEMD_RUNS.is_dir()
    for unit in UNITS:
        if any(os.path.lexists(path) for path in (unit.path(places), unit.overrides(places)[1])):
            was_active = runs and unit.is_active()
            _disable(unit, now=runs)
            yield f"disabled {unit.name}" if not was_active else f"stopped and disabled {unit.name}"


def _disable(unit: Unit, *, now: bool) -> None:
    hint = f"systemctl status '{unit.instances}'"
    if unit.is_template:  # `disable` takes the template, which stands for all instances, and `stop` does not
        if now:
            _systemctl("stop", unit.instances, hint=hint)
        _systemctl("disable", unit.name, hint=hint)
    else:
        _systemctl("disable", *(["--now"] if now else []), unit.name, hint=hint)


def forget(places: Places) -> None:
    """After a removal: make systemd forget the units."""
    if places.is_system and _SYSTEMD_RUNS.is_dir() and shutil.which("systemctl"):
        _systemctl("daemon-reload", hint="sudo systemctl daemon-reload")


def _systemctl(*words: str, hint: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise InstallError(f"systemctl {' '.join(words)} failed: {reason}", hint)
