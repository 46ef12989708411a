"""One command in one virtual machine, from boot to exit status."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from machines.errors import MachineError
from machines.image import initramfs
from machines.kernels import Kernel

_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_SOCKET_S = 10

TIMED_OUT = 124
"""Exit status of a command that timed out, as of timeout(1)."""


@dataclass(frozen=True)
class Machine:
    """What to boot. root: the directory that becomes /, read-only, what is written stays in the machine's memory.

    shares: directories of the host's at the same path, read-only; results: one that the command may write to.
    """

    kernel: Kernel
    root: Path = Path("/")
    shares: Sequence[Path] = ()
    results: Path | None = None
    cpus: int = 1
    memory_mib: int = 2048
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, command: Sequence[str], *, timeout_s: float, directory: Path, output: BinaryIO | None = None
    ) -> int:
        """Run the command as the machine's root in that directory, its output going to `output` or to our stdout.

        Returns its exit status, TIMED_OUT after timeout_s. Raises MachineError where the machine died.
        """
        with tempfile.TemporaryDirectory(prefix="machine.") as made, _shared(Path(made)) as share:
            job = Path(made, "job")
            job.mkdir()
            share("host", self.root, "always")
            share("kernel", self.kernel.tree, "always")
            share("job", job, "none")
            mounts = []
            for number, path in enumerate(self.shares):
                share(f"share{number}", path, "always")
                mounts.append(f"share{number} {path} ro\n")
            if self.results is not None:
                share("results", self.results, "none")
                mounts.append(f"results {self.results} rw\n")
            (job / "mounts").write_text("".join(mounts), encoding="utf-8")
            exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
            (job / "command").write_text(
                f"{exports}cd {shlex.quote(str(directory))} || exit 1\nexec {shlex.join(command)}\n", encoding="utf-8"
            )
            console = Path(made, "console")
            in_time = self._boot(share.devices, console, output or sys.stdout.buffer, timeout_s)
            status = _read(job / "status")
            if status.isdecimal():
                return int(status)
            if not in_time:
                return TIMED_OUT
            last_lines = "\n".join(_read(console).splitlines()[-30:])
            raise MachineError(f"{self.kernel.release} ended without an exit status:\n{last_lines}")

    def _boot(self, devices: Sequence[str], console: Path, output: BinaryIO, timeout_s: float) -> bool:
        """Whether it ended by itself."""
        read_end, write_end = os.pipe()
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            # Without KVM, so that it is the same on every host, in CI and inside other virtual machines.
            "-accel", "tcg", "-machine", "q35,memory-backend=memory", "-cpu", "max", "-smp", str(self.cpus),
            "-m", str(self.memory_mib),
            "-object", f"memory-backend-memfd,id=memory,size={self.memory_mib}M,share=on",
            "-kernel", str(self.kernel.vmlinuz), "-initrd", str(initramfs(self.kernel)),
            "-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on",
            "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console",
            # Not stdio: at its end the guest's writes would block for ever.
            "-device", "virtio-serial-pci",
            "-chardev", f"file,id=output,path=/dev/fd/{write_end},append=on",
            "-device", "virtserialport,chardev=output,name=output",
            *devices,
        ]  # fmt: skip
        with console.open("wb") as log:
            # In our own session: a terminal's ^C ends the machines with us.
            qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write_end])
        os.close(write_end)
        copier = threading.Thread(target=_copy, args=(read_end, output), daemon=True)
        copier.start()
        try:
            qemu.wait(timeout_s)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            qemu.kill()
            qemu.wait()
            copier.join()


class _Sharing:
    """Gives directories to a machine: a virtiofsd process each, and the device for QEMU."""

    def __init__(self, made: Path) -> None:
        self._made = made
        self._daemon = next((each for each in _VIRTIOFSD if Path(each).exists()), None)
        if self._daemon is None:
            raise MachineError(
                "virtiofsd is missing (it is in qemu-system-common or in virtiofsd)",
                hint="sudo apt-get install qemu-system-common",
            )
        self.processes: list[subprocess.Popen[bytes]] = []
        self.devices: list[str] = []

    def __call__(self, tag: str, directory: Path, cache: str) -> None:
        socket = self._made / f"{tag}.socket"
        log_path = self._made / f"{tag}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                # Its default sandbox cannot share `/`.
                [str(self._daemon), f"--socket-path={socket}", "-o", f"source={directory}", "-o", f"cache={cache}",
                 "-o", "sandbox=chroot", "-o", "no_posix_lock", "--thread-pool-size=4"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        deadline = time.monotonic() + _SOCKET_S
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"virtiofsd cannot share {directory}: {_read(log_path).strip()}")
            time.sleep(0.01)
        self.devices += [
            "-chardev", f"socket,id=fs-{tag},path={socket}",
            "-device", f"vhost-user-fs-pci,chardev=fs-{tag},tag={tag},queue-size=1024",
        ]  # fmt: skip


@contextmanager
def _shared(made: Path) -> Iterator[_Sharing]:
    sharing = _Sharing(made)
    try:
        yield sharing
    finally:
        for process in sharing.processes:
            process.kill()
            process.wait()


def _copy(read_end: int, output: BinaryIO) -> None:
    with os.fdopen(read_end, "rb", buffering=0) as source:
        shutil.copyfileobj(source, output, 4096)
    output.flush()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""
