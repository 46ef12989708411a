"""Debian trees with another bcc and Python than the host's, for a machine's root or to run tests in."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from machines.errors import MachineError
from machines.sources import Archive, archive_for

HOST = "host"
SUITES = ("trixie", "sid")
RELEASES = ("bullseye", "bookworm", *SUITES)
"""The releases that a tree can be made of."""
_EVERYWHERE = (
    "python3-bpfcc", "python3-venv",
    # Programs that tcpwatch or its tests run.
    "nftables", "conntrack", "iproute2", "bpftool", "kmod", "systemd",
)  # fmt: skip
PACKAGES = (
    *_EVERYWHERE,
    # The modules that tcpwatch and its tests import.
    "python3-click", "python3-tabulate", "python3-prometheus-client", "python3-pymysql",
    "python3-pytest", "python3-pytest-timeout", "python3-pytest-rerunfailures", "python3-pytest-xdist",
    "python3-hypothesis", "python3-build", "python3-setuptools", "python3-wheel",
    # debootstrap does not find what provides the virtual packages that python3-zstandard depends on.
    "python3-cffi-backend", "python3-zstandard",
)  # fmt: skip
_PACKAGES_OF = {"bullseye": (*_EVERYWHERE, "python3-click", "python3-tabulate", "netbase")}
"""Other packages than PACKAGES, by release."""
_WHEELS_OF = {
    "bullseye": (
        "attrs==26.1.0", "build==1.4.4", "click==8.0.3", "exceptiongroup==1.3.2", "execnet==2.1.2",
        "hypothesis==6.141.1", "importlib_metadata==8.7.1", "iniconfig==2.1.0", "packaging==26.3",
        "pluggy==1.6.0", "prometheus_client==0.21.1", "Pygments==2.21.0", "PyMySQL==1.2.4",
        "pyproject_hooks==1.3.3", "pytest==8.4.2",
        "pytest-rerunfailures==16.0.1", "pytest-timeout==2.4.0", "pytest-xdist==3.8.0",
        "setuptools==82.0.1", "sortedcontainers==2.4.0", "tabulate==0.8.9", "tomli==2.5.0",
        "typing_extensions==4.16.0", "wheel==0.48.0", "zipp==3.23.1", "zstandard==0.25.0",
    ),
}  # fmt: skip
"""Modules from PyPI with all that they need, by release. The release lacks them, or has a version that is too old for
tcpwatch or its tests. Newer versions need a newer Python. click and tabulate have the versions of EPEL 9, so that
Debian 11 stands for RHEL 9.
"""
_ATTEMPTS = 3
_PAUSE_S = 20


def get(name: str, cache: Path) -> Path:
    """The tree of a release, made on first use; for HOST, the root of this host. Raises MachineError."""
    if name == HOST:
        return Path("/")
    if name not in RELEASES:
        raise MachineError(f"unknown root {name!r} (expected one of {HOST}, {', '.join(RELEASES)})")
    return _tree(name, cache / "roots" / name, _PACKAGES_OF.get(name, PACKAGES), _WHEELS_OF.get(name, ()))


def minimal(name: str, cache: Path) -> Path:
    """A tree of a release as debootstrap makes it, with apt and nothing else. Raises MachineError."""
    return _tree(name, cache / "roots" / f"{name}-minimal", (), ())


def _tree(name: str, tree: Path, packages: Sequence[str], wheels: Sequence[str]) -> Path:
    """Make the tree unless it is there with these packages. Another process that makes it is waited for."""
    done = tree.with_name(f"{tree.name}.packages")
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text(encoding="utf-8").split() == [*packages, *wheels]):
            done.unlink(missing_ok=True)
            _make(name, tree, packages)
            if wheels:
                _add_wheels(tree, wheels)
            done.write_text("\n".join([*packages, *wheels]), encoding="utf-8")
    return tree


def _make(name: str, tree: Path, packages: Sequence[str]) -> None:
    """Run debootstrap, up to _ATTEMPTS times: a mirror may be out of reach, or in the middle of an update."""
    archive = archive_for(name)
    address, signatures = archive.address(), _signatures(archive)
    included = [f"--include={','.join(packages)}"] if packages else []
    for attempt in range(1, _ATTEMPTS + 1):
        shutil.rmtree(tree, ignore_errors=True)
        made = subprocess.run(
            # What it mounts in the tree goes with its mount namespace, also when it is killed.
            ["unshare", "--mount", "debootstrap", "--variant=minbase", *included, *signatures, name, tree, address],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if made.returncode == 0:
            return
        output = "\n".join(made.stdout.splitlines()[-5:])
        print(f"vm: debootstrap failed for {name}, attempt {attempt} of {_ATTEMPTS}:\n{output}", file=sys.stderr)
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_S)
    raise MachineError(f"debootstrap failed for {name}", hint="sudo apt-get update")


def _add_wheels(tree: Path, wheels: Sequence[str]) -> None:
    """Install modules from PyPI for the Python of the tree, with the pip of this host."""
    version = next((tree / "usr/lib").glob("python3.*")).name.removeprefix("python")
    # In the place of those of the release: tests hide /usr/local, or remove a module from here.
    modules = tree / "usr/lib/python3/dist-packages"
    for wheel in wheels:
        for old in modules.glob(f"{wheel.partition('==')[0]}-*.egg-info"):
            shutil.rmtree(old)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
         "--no-deps", "--upgrade", "--python-version", version, "--target", modules, *wheels],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        output = "\n".join(done.stdout.splitlines()[-5:])
        print(f"vm: pip failed for {tree.name}:\n{output}", file=sys.stderr)
        raise MachineError(f"pip could not install modules for {tree.name}", hint="is PyPI in reach?")


def _signatures(archive: Archive) -> list[str]:
    """How debootstrap checks the archive: with the keyring of its source, else with Debian's own."""
    if archive.is_trusted:
        return ["--no-check-gpg"]
    return [f"--keyring={archive.signed_by}"] if archive.signed_by.endswith(".gpg") else []
