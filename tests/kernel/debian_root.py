"""Roots of Debian releases that tests may change, in a mount namespace that ends with the test."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive",
)  # fmt: skip


class Mounts:
    """A mount namespace with a file system in memory at `directory`.

    All of it is gone when it is closed, or when the test is killed. within: it begins with the mounts of another one.
    """

    def __init__(self, directory: Path, within: Mounts | None = None) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        holder = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"]
        self._holder = subprocess.Popen(
            within.command(holder) if within else holder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self.run("mount", "-t", "tmpfs", "tcpwatch", directory)

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """The command that runs these words in the namespace, in the same process."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *map(str, words)]

    def run(self, *words: str | Path, timeout_s: float = 300) -> str:
        """Run a command. Returns its output; fails with all of it."""
        done = subprocess.run(
            self.command(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(map(str, words))} failed ({done.returncode}):\n{done.stdout}"
        return done.stdout

    def close(self) -> None:
        """End the namespace."""
        self._holder.communicate()


class DebianRoot:
    """The release in the directory `base`, with the processes, the network and the kernel of this host.

    Changes are kept in memory. `shared` is the directory /mnt in it, read-only.
    """

    def __init__(self, mounts: Mounts, base: Path, name: str, shared: Path) -> None:
        self._mounts = mounts
        directory = mounts.directory / name
        self.path = directory / "root"
        mounts.run("mkdir", directory, directory / "changes", directory / "work", self.path)
        layers = f"lowerdir={base},upperdir={directory}/changes,workdir={directory}/work"
        mounts.run("mount", "-t", "overlay", "-o", layers, "root", self.path)
        mounts.run("mount", "-t", "proc", "proc", self.path / "proc")
        for each in ("sys", "dev"):
            mounts.run("mount", "--rbind", f"/{each}", self.path / each)
        for each in ("run", "tmp"):
            mounts.run("mount", "-t", "tmpfs", each, self.path / each)
        mounts.run("mount", "--bind", "-o", "ro", shared, self.path / "mnt")

    def run(self, *words: str) -> str:
        """Run a command as root in it. Returns its output; fails with all of it."""
        return self._mounts.run("chroot", self.path, "env", "-i", *_ENVIRONMENT, *words)

    def install(self, *packages: str) -> None:
        """Install Debian packages, named or as files."""
        for words in (("update",), ("install", *packages)):
            self.run("apt-get", "-qq", "-o", "Acquire::Retries=3", *words)

    def files_named(self, part: str) -> list[str]:
        """Paths with this part in their names, on the root's own file system."""
        return self.run("find", "/", "-xdev", "-iname", f"*{part}*").split()
