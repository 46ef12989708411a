"""The systemd unit: an upgrade keeps one that was edited, and a removal stops it first."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from installation.errors import InstallError
from installation.places import Places

_NAME = "tcpwatch.service"
_RECORD = "unit.sha256"
_SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)


def digest(content: bytes) -> str:
    """What `record` keeps of a unit."""
    return hashlib.sha256(content).hexdigest()


def record(home: Path) -> Path:
    """In the copy, the file with the digest of the unit that was installed with it."""
    return home / _RECORD


def shipped_copy(places: Places) -> Path:
    """Path of the new unit if the old one was edited."""
    return places.unit.with_name(f"{_NAME}.dist")


def is_edited(places: Places, shipped: bytes) -> bool:
    """Whether the existing unit differs from the installed one and from the new one."""
    unit = places.unit
    if not os.path.lexists(unit):
        return False
    if unit.is_symlink() or not unit.is_file():
        return True
    content = unit.read_bytes()
    return content != shipped and digest(content) != _installed(places)


def _installed(places: Places) -> str:
    try:
        return record(places.home).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def renew(places: Places) -> Iterator[str]:
    """After an upgrade: let systemd read the unit, and restart it if it runs. Yields what was done.

    The old process would import what it has not imported yet from the new copy.
    """
    if not (places.is_system and _SYSTEMD_RUNS.is_dir() and shutil.which("systemctl")):
        return
    _systemctl("daemon-reload", hint="sudo systemctl daemon-reload")
    if _is_active():
        _systemctl("try-restart", _NAME, hint=f"systemctl status {_NAME}")
        yield f"restarted {_NAME}: it records into a new file"


def stop(places: Places) -> Iterator[str]:
    """Before a removal: stop and disable it. Yields what was done. Raises InstallError where systemd refuses."""
    there = any(os.path.lexists(path) for path in (places.unit, places.overrides[1]))
    if not (places.is_system and there and shutil.which("systemctl")):
        return
    # Without a running systemd `disable` still removes the links that would start it at the next boot.
    now = ["--now"] if _SYSTEMD_RUNS.is_dir() else []
    was_active = bool(now) and _is_active()
    _systemctl("disable", *now, _NAME, hint=f"systemctl status {_NAME}")
    yield f"disabled {_NAME}" if not was_active else f"stopped and disabled {_NAME}"


def forget(places: Places) -> None:
    """After a removal: make systemd forget the unit."""
    if places.is_system and _SYSTEMD_RUNS.is_dir() and shutil.which("systemctl"):
        _systemctl("daemon-reload", hint="sudo systemctl daemon-reload")


def _is_active() -> bool:
    return subprocess.run(["systemctl", "--quiet", "is-active", _NAME], check=False).returncode == 0


def _systemctl(*words: str, hint: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise InstallError(f"systemctl {' '.join(words)} failed: {reason}", hint)
