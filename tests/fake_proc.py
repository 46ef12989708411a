"""A directory that looks like /proc."""

from __future__ import annotations

from pathlib import Path


class Proc:
    """Processes with sockets, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, comm: str, *inodes: int, exe: str | None = None) -> None:
        """A process that holds sockets with these inodes. exe: what /proc/PID/exe points to."""
        fds = self.root / str(pid) / "fd"
        fds.mkdir(parents=True)
        (self.root / str(pid) / "comm").write_text(comm + "\n")
        if exe is not None:
            (self.root / str(pid) / "exe").symlink_to(exe)
        (fds / "0").symlink_to("/dev/null")
        for number, inode in enumerate(inodes, 3):
            (fds / str(number)).symlink_to(f"socket:[{inode}]")
