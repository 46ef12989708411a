"""Debian trees with another bcc and Python than the host's, for a machine's root or to run tests in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from machines.errors import MachineError
from machines.sources import Archive, archive_for

HOST = "host"
SUITES = ("trixie", "sid")
RELEASES = ("bookworm", *SUITES)
"""The releases that a tree can be made of."""
PACKAGES = (
    # tcpwatch's dependencies and the modules that its tests import.
    "python3-bpfcc", "python3-click", "python3-tabulate", "python3-venv", "python3-pymysql",
    "python3-pytest", "python3-pytest-timeout", "python3-pytest-rerunfailures", "python3-pytest-xdist",
    "python3-hypothesis", "python3-build", "python3-setuptools", "python3-wheel",
    # debootstrap does not find what provides the virtual packages that python3-zstandard depends on.
    "python3-cffi-backend", "python3-zstandard",
    # Programs that they run.
    "nftables", "conntrack", "iproute2", "bpftool", "kmod", "systemd",
)  # fmt: skip
_ATTEMPTS = 3
_PAUSE_S = 20


def get(name: str, cache: Path) -> Path:
    """The tree of a release, made on first use; for HOST, the root of this host. Raises MachineError."""
    if name == HOST:
        return Path("/")
    if name not in RELEASES:
        raise MachineError(f"unknown root {name!r} (expected one of {HOST}, {', '.join(RELEASES)})")
    tree = cache / "roots" / name
    done = cache / "roots" / f"{name}.packages"
    if not (done.exists() and done.read_text(encoding="utf-8").split() == list(PACKAGES)):
        done.unlink(missing_ok=True)
        _make(name, tree)
        done.write_text("\n".join(PACKAGES), encoding="utf-8")
    return tree


def _make(name: str, tree: Path) -> None:
    """Run debootstrap, up to _ATTEMPTS times: a mirror may be out of reach, or in the middle of an update."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    archive = archive_for(name)
    address, signatures = archive.address(), _signatures(archive)
    for attempt in range(1, _ATTEMPTS + 1):
        shutil.rmtree(tree, ignore_errors=True)
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", *signatures, name, tree, address],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if made.returncode == 0:
            return
        output = "\n".join(made.stdout.splitlines()[-5:])
        print(f"vm: debootstrap failed for {name}, attempt {attempt} of {_ATTEMPTS}:\n{output}", file=sys.stderr)
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_S)
    raise MachineError(f"debootstrap failed for {name}", hint="sudo apt-get update")


def _signatures(archive: Archive) -> list[str]:
    """How debootstrap checks the archive: with the keyring of its source, else with Debian's own."""
    if archive.is_trusted:
        return ["--no-check-gpg"]
    return [f"--keyring={archive.signed_by}"] if archive.signed_by.endswith(".gpg") else []
