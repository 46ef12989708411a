"""The command that installs a distribution's package on this host, or the package's name where that is unknown."""

from __future__ import annotations

import shutil

_RPM_NAMES = {"python3-bpfcc": "python3-bcc", "python3-pymysql": "python3-PyMySQL", "conntrack": "conntrack-tools",
              "iproute2": "iproute", "libbpf1": "libbpf"}  # fmt: skip
"""Names of Debian's packages on RHEL, Fedora and Amazon Linux, where they differ. scripts/lib.sh has them, too."""


def _uses_apt() -> bool:
    return shutil.which("apt-get") is not None


def _uses_dnf() -> bool:
    return shutil.which("dnf") is not None and not _uses_apt()


def installing(*packages: str) -> str:
    """`sudo apt-get install python3-click`, the same with dnf, or words. packages: their names in Debian."""
    if _uses_apt():
        return " ".join(["sudo apt-get install", *packages])
    if _uses_dnf():
        return " ".join(["sudo dnf install", *(_RPM_NAMES.get(name, name) for name in packages)])
    return f"install {_named(*packages)}"


def upgrading(package: str) -> str:
    """The command that brings the newest version, or words. package: its name in Debian."""
    if _uses_apt():
        return f"sudo apt-get install --only-upgrade {package}"
    if _uses_dnf():
        return f"sudo dnf upgrade {_RPM_NAMES.get(package, package)}"
    return f"upgrade {_named(package)}"


def _named(*packages: str) -> str:
    """`the package python3-click (its name in Debian)`: for other package managers."""
    if len(packages) == 1:
        return f"the package {packages[0]} (its name in Debian)"
    return f"the packages {' '.join(packages)} (their names in Debian)"


def from_pypi(package: str, version: str) -> str:
    """The command that installs a newer package than the distribution has, with the distribution's Python.

    With dnf it has to be an environment, because Red Hat's Python does not see packages of `sudo pip` when it is
    isolated (python3 -I), as tcpwatch's scripts start it.
    """
    if _uses_dnf():
        return (
            "in a clone of tcpwatch: sudo python3 -m venv --system-site-packages /opt/tcpwatch-venv && "
            "sudo /opt/tcpwatch-venv/bin/pip install . && sudo /opt/tcpwatch-venv/bin/tcpwatch check"
        )
    return f"sudo /usr/bin/python3 -m pip install '{package}>={version}'"
