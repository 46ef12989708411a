"""A network namespace without a name, and the commands that run in it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tracer.model.errors import TcpwatchError
from tracer.model.events import STATES
from tracer.model.packages import installing

_PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "tee": "coreutils",
}


def require_tools(*tools: str) -> None:
    """Raise TcpwatchError unless all these commands are there."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = sorted({_PACKAGES.get(tool, tool) for tool in missing})
        raise TcpwatchError(f"not installed: {', '.join(missing)}", hint=installing(*packages))


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    """Check the condition every 10 ms until it holds. Raises TcpwatchError with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TcpwatchError(
                f"timed out after {timeout_s:g}s waiting: {what}", hint="the machine may be overloaded: try it again"
            )
        time.sleep(0.01)


class Namespace:
    """A network namespace that lives as long as its holder, a child process.

    The holder reads a pipe that only this process can write to. It ends with this process, even after kill -9, and
    the namespace with it. `close` ends it sooner.
    """

    def __init__(self) -> None:
        own = Path("/proc/self/ns/net").stat().st_ino
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._holder.pid
        try:
            wait_until(lambda: self._inode() != own, 10, "a new network namespace")
            self.netns = self._inode()
        except BaseException:
            self.close()
            raise

    def _inode(self) -> int:
        try:
            return Path(f"/proc/{self.pid}/ns/net").stat().st_ino
        except FileNotFoundError:  # a zombie has no namespaces
            self._holder.wait()
            reason = self._holder.stderr.read().decode("utf-8", "replace").strip() if self._holder.stderr else ""
            raise TcpwatchError(
                f"cannot create a network namespace: {reason}", hint="run it with sudo, on the host"
            ) from None

    def close(self) -> None:
        """End the holder. Closing again does nothing."""
        if self._holder.returncode is None:
            self._holder.kill()
            self._holder.wait()
        for stream in (self._holder.stdin, self._holder.stderr):
            if stream is not None:
                stream.close()

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The command that runs argv in this namespace, in the same process."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, argv)]

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        """Start a command in the namespace, with text streams, in a session of its own: ^C does not reach it."""
        return subprocess.Popen(self.command(argv), text=True, start_new_session=True, **options)

    def run(self, *argv: str | Path, stdin: str = "") -> str:
        """Run a command and return its output. Raises TcpwatchError with its error messages."""
        done = subprocess.run(self.command(argv), input=stdin, capture_output=True, text=True, start_new_session=True)
        if done.returncode != 0:
            raise TcpwatchError(
                f"{' '.join(map(str, argv))} failed: {done.stderr.strip() or done.returncode}",
                hint="the demo needs namespaces, veth, nftables and conntrack: uname -r; lsmod",
            )
        return done.stdout

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Set a net.… sysctl of this namespace."""
        self.run("tee", "/proc/sys/" + name.replace(".", "/"), stdin=str(value))

    def believes(self, lport: int, rport: int) -> str | None:
        """The state of the IPv4 TCP socket with these two ports. None if the namespace has none."""
        lines = Path(f"/proc/{self.pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        for line in lines:
            _, local, remote, state, *_ = line.split()
            if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) == (lport, rport):
                return STATES.get(int(state, 16))
        return None

    def counter(self, name: str) -> int:
        """A counter of the kernel by its name in nstat: TcpRetransSegs, TcpExtTCPTimeouts."""
        for file in ("snmp", "netstat"):
            lines = Path(f"/proc/{self.pid}/net/{file}").read_text(encoding="ascii").splitlines()
            for names, values in zip(lines[::2], lines[1::2]):
                prefix, *columns = names.replace(":", "").split()
                if name.startswith(prefix) and name.removeprefix(prefix) in columns:
                    return int(values.split()[1 + columns.index(name.removeprefix(prefix))])
        raise TcpwatchError(f"the kernel has no counter {name}")
