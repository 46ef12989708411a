"""The initramfs that a kernel boots: busybox, the modules that it needs to reach its root, and the guest's script."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from machines.errors import MachineError
from machines.kernels import Kernel

_GUEST = Path(__file__).parent / "guest"
_BUSYBOX = Path("/bin/busybox")
_NEEDED = ("virtio_pci", "virtio_console", "virtiofs", "overlay")


def initramfs(kernel: Kernel) -> Path:
    """The initramfs of a kernel, made once for each version of the guest's script."""
    version = hashlib.sha256(_GUEST.read_bytes()).hexdigest()[:8]
    path = kernel.tree.parent / f"initramfs.{version}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as made:
            tree = Path(made, "tree")
            _fill(tree, kernel)
            finished = Path(made, "archive")
            with finished.open("wb") as archive:
                names = sorted(str(each.relative_to(tree)) for each in tree.rglob("*"))
                subprocess.run(
                    ["cpio", "--create", "--format=newc", "--quiet"],
                    input="\n".join(names).encode(), stdout=archive, cwd=tree, check=True,
                )  # fmt: skip
            finished.rename(path)
    return path


def _fill(tree: Path, kernel: Kernel) -> None:
    for directory in ("bin", "modules", "proc", "dev", "host", "kernel", "upper", "root"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(_BUSYBOX, tree / "bin/busybox")
    shutil.copy(_GUEST, tree / "init")
    (tree / "init").chmod(0o755)
    order = []
    for path in _modules(kernel):
        name = path.name.partition(".ko")[0] + ".ko"
        (tree / "modules" / name).write_bytes(_decompressed(path))
        order.append(name)
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in order), encoding="ascii")


def _modules(kernel: Kernel) -> list[Path]:
    """Module files in the order of loading. Built-in modules have none."""
    found: dict[Path, None] = {}
    for module in _NEEDED:
        shown = subprocess.run(
            ["modprobe", "--dirname", kernel.tree, "--set-version", kernel.release, "--show-depends", module],
            capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if shown.returncode != 0:
            raise MachineError(f"{kernel.release} has no module {module}: {shown.stderr.strip()}")
        for line in shown.stdout.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
