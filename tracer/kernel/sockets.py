"""Every TCP connection of this host as it is now: one walk through each network namespace.

sock_diag, which `ss` asks, does not tell the keepalive settings. A BPF iterator over TCP sockets (bpf/sockets.bpf.c)
reads them from the socket itself, as the tracer does.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tracer.errors import TcpwatchError
from tracer.filters import Filter
from tracer.kernel import bpf, clocks, host
from tracer.kernel.btf import KernelTypes
from tracer.kernel.holders import LookUp, look_up
from tracer.kernel.loading import load
from tracer.kernel.owners import Owners
from tracer.kernel.program import Program
from tracer.kernel.source import SOCKETS, source_for
from tracer.kernel.wire import SIZE, Decoder
from tracer.sockets import Socket

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h

# A mounted namespace file in mountinfo: `36 25 0:4 net:[4026532000] /run/netns/name rw shared:17 - nsfs nsfs rw`
_MOUNTED = re.compile(r"^\S+ \S+ \S+ net:\[(\d+)\] (\S+) .* - nsfs ", re.MULTILINE)
_OCTAL = re.compile(r"\\([0-7]{3})")


def read_sockets(wanted: Filter, say: Callable[[str], None] = lambda _: None) -> list[Socket]:
    """The synchronized connections of every namespace, half closed ones and SYN_SENT too, with their processes.

    No listeners, no TIME_WAIT. In no order. A namespace is found by a process in it, or by a mount that holds it.
    say: takes a line for the user. Raises TcpwatchError for whatever is missing on this host.
    """
    host.require_privilege()
    hz = host.hz()
    with KernelTypes() as types:
        iterates = types.function("bpf_iter_tcp")
        if iterates is None:
            raise TcpwatchError(
                "this kernel has no BPF iterator over TCP sockets, which came with Linux 5.9",
                hint="uname -r; without it, ss -tino shows timers and silence (lastrcv, lastack), not the settings",
            )
        source = source_for(SOCKETS, types, hz=hz)
        task_file = types.function("bpf_iter_task_file")

    def prepare(program: Program) -> tuple[int, LookUp]:
        program.configure(wanted)
        return program.link_iterator("bpf_iter__tcp", iterates), look_up(program, task_file)

    program, (link, holders) = load(source, Program, prepare, say)
    with program:
        data = _walk(link, wanted.netns)
        # After the sockets: those that are new since then are not asked for.
        owners = Owners(holders)
        owners.look_up_all()
    clock_offset_ns = clocks.offset_ns()
    decoder = Decoder(hz=hz, reasons={}, key=b"")
    sockets = []
    for start in range(0, len(data), SIZE):
        record = data[start : start + SIZE]
        event, owner = decoder.decode(record, clock_offset_ns)
        owners.fill(event, owner)
        if wanted.wants(event):
            sockets.append(decoder.socket(record, event))
    return sockets


def _walk(link: int, only: Collection[int]) -> bytes:
    """The records of every namespace, or only of these inodes.

    An iterator walks the namespace of the thread that makes it (bpf_iter_init_seq_net(), fs/proc/proc_net.c). The
    thread that enters them all does nothing else and ends here.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return b"".join(
            pool.submit(_read_inside, link, inode, paths).result()
            for inode, paths in namespaces().items()
            if not only or inode in only
        )


def _read_inside(link: int, inode: int, paths: list[str]) -> bytes:
    for path in paths:
        # A process that ended, or whose number another one has got, is no way in any more.
        with suppress(FileNotFoundError, ProcessLookupError):
            namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(namespace).st_ino == inode:
                    _enter(namespace, path)
                    return _read_all(link)
            finally:
                os.close(namespace)
    return b""


def _enter(namespace: int, path: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise TcpwatchError(
            f"the network namespace {path} cannot be entered: {os.strerror(ctypes.get_errno())}",
            hint="run it on the host, as root with all capabilities",
        )


def _read_all(link: int) -> bytes:
    try:
        return bpf.read_iterator(link)
    except OSError as error:
        raise TcpwatchError(
            f"the walk over the sockets failed: {error.strerror}", hint="try it again; sudo tcpwatch check; free -m"
        ) from error


def namespaces(proc: Path = Path("/proc")) -> dict[int, list[str]]:
    """Every network namespace by its inode, with the files by which it can be entered, most lasting first."""
    found: dict[int, list[str]] = {}
    with suppress(OSError):
        mounts = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        for inode, path in _MOUNTED.findall(mounts):
            found.setdefault(int(inode), []).append(_OCTAL.sub(lambda code: chr(int(code[1], 8)), path))
    for name in os.listdir(proc):
        if name.isdecimal():
            path = f"{proc}/{name}/ns/net"
            with suppress(OSError):  # ended
                found.setdefault(Path(path).stat().st_ino, []).append(path)
    return found
