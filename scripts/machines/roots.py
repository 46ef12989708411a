"""Whole Debian trees, with another bcc and Python than the host's: to be a machine's /, or to run tests in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from machines.archive import mirror
from machines.errors import MachineError

HOST = "host"
SUITES = ("trixie", "sid")
RELEASES = ("bookworm", *SUITES)
"""Of which a tree can be made."""
PACKAGES = (
    # tcpwatch, and what its tests import.
    "python3-bpfcc", "python3-click", "python3-tabulate", "python3-venv", "python3-pymysql",
    "python3-pytest", "python3-pytest-timeout", "python3-pytest-rerunfailures", "python3-pytest-xdist",
    "python3-hypothesis", "python3-build", "python3-setuptools", "python3-wheel",
    # debootstrap does not find what provides the virtual packages that python3-zstandard depends on.
    "python3-cffi-backend", "python3-zstandard",
    # What they run.
    "nftables", "conntrack", "iproute2", "bpftool", "kmod", "systemd",
)  # fmt: skip
_ATTEMPTS = 3
_PAUSE_S = 20


def get(name: str, cache: Path) -> Path:
    """The tree of that release, made unless it is there; of HOST this host's own. Raises MachineError."""
    if name == HOST:
        return Path("/")
    if name not in RELEASES:
        raise MachineError(f"no root {name!r} is known; there are {HOST}, {', '.join(RELEASES)}")
    tree = cache / "roots" / name
    done = cache / "roots" / f"{name}.packages"
    if not (done.exists() and done.read_text(encoding="utf-8").split() == list(PACKAGES)):
        done.unlink(missing_ok=True)
        _make(name, tree)
        done.write_text("\n".join(PACKAGES), encoding="utf-8")
    return tree


def _make(name: str, tree: Path) -> None:
    """Try it a few times: a mirror may be out of reach, or in the middle of an update."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        shutil.rmtree(tree, ignore_errors=True)
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", name, tree, mirror("debian")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if made.returncode == 0:
            return
        said = "\n".join(made.stdout.splitlines()[-5:])
        print(f"vm: debootstrap could not make {name}, attempt {attempt} of {_ATTEMPTS}:\n{said}", file=sys.stderr)
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_S)
    raise MachineError(f"debootstrap could not make {name}")
