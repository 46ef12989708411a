"""The command that installs a distribution's package on this host."""

from __future__ import annotations

import shutil

_RPM_NAMES = {"python3-bpfcc": "python3-bcc", "python3-pymysql": "python3-PyMySQL", "conntrack": "conntrack-tools",
              "iproute2": "iproute", "libbpf1": "libbpf"}  # fmt: skip
"""Names of Debian's packages on RHEL, Fedora and Amazon Linux, where they differ. scripts/lib.sh has them, too."""


def uses_dnf() -> bool:
    """Whether packages are installed with dnf on this host."""
    return shutil.which("dnf") is not None and shutil.which("apt-get") is None


def installing(*packages: str) -> str:
    """`sudo apt-get install python3-click`, or the same with dnf. packages: their names in Debian."""
    if uses_dnf():
        return " ".join(["sudo dnf install", *(_RPM_NAMES.get(name, name) for name in packages)])
    return " ".join(["sudo apt-get install", *packages])


def upgrading(package: str) -> str:
    """The command that brings the newest version. package: its name in Debian."""
    if uses_dnf():
        return f"sudo dnf upgrade {_RPM_NAMES.get(package, package)}"
    return f"sudo apt-get install --only-upgrade {package}"


def from_pypi(package: str, version: str) -> str:
    """The command that installs a newer package than the distribution has, with the distribution's Python.

    With dnf it has to be an environment, because Red Hat's Python does not see packages of `sudo pip` when it is
    isolated (python3 -I), as tcpwatch's scripts start it.
    """
    if uses_dnf():
        return (
            "in a clone of tcpwatch: sudo python3 -m venv --system-site-packages /opt/tcpwatch-venv && "
            "sudo /opt/tcpwatch-venv/bin/pip install . && sudo /opt/tcpwatch-venv/bin/tcpwatch check"
        )
    return f"sudo /usr/bin/python3 -m pip install '{package}>={version}'"
