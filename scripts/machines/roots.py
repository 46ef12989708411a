"""Whole Debian trees to be a machine's /: another bcc and another Python than the host's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from machines.archive import mirror
from machines.errors import MachineError

HOST = "host"
SUITES = ("trixie", "sid")
_PACKAGES = (
    "python3-bpfcc", "python3-click", "python3-tabulate", "python3-pytest", "python3-pytest-timeout",
    "nftables", "conntrack", "iproute2", "bpftool", "kmod",
)  # fmt: skip


def get(name: str, cache: Path) -> Path:
    """The tree of that suite, made unless it is there; of HOST this host's own."""
    if name == HOST:
        return Path("/")
    if name not in SUITES:
        raise MachineError(f"no root {name!r} is known; there are {HOST}, {', '.join(SUITES)}")
    tree = cache / "roots" / name
    done = cache / "roots" / f"{name}.packages"
    if not (done.exists() and done.read_text(encoding="utf-8").split() == list(_PACKAGES)):
        shutil.rmtree(tree, ignore_errors=True)
        tree.parent.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", name, tree, mirror("debian")],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode != 0:
            said = "\n".join(made.stdout.splitlines()[-5:])
            raise MachineError(f"debootstrap could not make {name}: {said}")
        done.write_text("\n".join(_PACKAGES), encoding="utf-8")
    return tree
