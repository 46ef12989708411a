"""Every TCP connection of this host as it is now.

sock_diag, which `ss` asks, does not tell the keepalive settings. BPF iterators (bpf/sockets.bpf.c) read them from the
socket itself, as the tracer does.

The iterator over TCP sockets has those of one network namespace, and passes the sockets of all others, too: to read
it in each of N namespaces takes N times as long as there are sockets on the host (established_get_first(),
net/ipv4/tcp_ipv4.c). Where there are more than FEW namespaces, one walk over the open files of all processes finds
the sockets that are held. A namespace is walked through by itself only where its own count of sockets says that it
has others: of a connection that is closing, the process may have ended.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tracer.kernel import clocks, host
from tracer.kernel.holders import LookUp, look_up
from tracer.kernel.layout import OFFSETS, SIZE
from tracer.kernel.owners import Owners
from tracer.kernel.program import syscalls
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.loading import load
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import SOCKETS, source_for
from tracer.kernel.wire import Decoder
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter
from tracer.model.sockets import Socket

FEW = 32
"""Network namespaces that are walked through one by one."""
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

    def prepare(program: Program) -> tuple[int, int | None, LookUp]:
        program.configure(wanted)
        link = program.link_iterator("bpf_iter__tcp", iterates)
        return link, _held_sockets(program, task_file), look_up(program, task_file)

    program, (link, held_link, holders) = load(source, Program, prepare, say)
    with program:
        data = _walk(link, held_link, wanted.netns)
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


def _held_sockets(program: Program, task_file: int | None) -> int | None:
    """The link of the iterator over the sockets that a process holds; None where the kernel refuses it."""
    if task_file is None:
        return None
    try:
        return program.link_iterator("report_held_socket", task_file)
    except ProgramError:
        return None


def _walk(link: int, held_link: int | None, only: Collection[int]) -> bytes:
    """The records of every namespace, or only of these inodes.

    An iterator walks the namespace of the thread that makes it (bpf_iter_init_seq_net(), fs/proc/proc_net.c). The
    thread that enters them all does nothing else and ends here.
    """
    walked = {inode: paths for inode, paths in namespaces().items() if not only or inode in only}
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_walk_each, link, held_link if len(walked) > FEW else None, walked).result()


def _walk_each(link: int, held_link: int | None, walked: Mapping[int, list[str]]) -> bytes:
    held = _Held(_read_all(held_link)) if held_link is not None else None
    return b"".join(_read_inside(link, inode, paths, held) for inode, paths in walked.items())


class _Held:
    """The sockets that processes hold, by network namespace: what the iterator over them wrote."""

    def __init__(self, data: bytes) -> None:
        self._by_netns: dict[int, dict[bytes, bytes]] = {}
        for start in range(0, len(data), SIZE):
            record = data[start : start + SIZE]
            # A socket may be held by several processes.
            self._by_netns.setdefault(_netns_of(record), {})[_sk_of(record)] = record

    def records(self, netns: int) -> bytes:
        """Those of connections that are wanted."""
        return b"".join(record for record in self._by_netns.get(netns, {}).values() if _type_of(record))

    def are_all(self, netns: int) -> bool:
        """Whether they are all sockets of the namespace of this thread, by the kernel's own count."""
        counted = _sockets_in_use()
        return counted is not None and counted == len(self._by_netns.get(netns, {}))


def _sk_of(record: bytes) -> bytes:
    return record[OFFSETS["sk"] : OFFSETS["sk"] + 8]


def _netns_of(record: bytes) -> int:
    return int.from_bytes(record[OFFSETS["netns"] : OFFSETS["netns"] + 4], "little")


def _type_of(record: bytes) -> int:
    return record[OFFSETS["type"]]


def _sockets_in_use(net: Path = Path("/proc/thread-self/net")) -> int | None:
    """How many TCP sockets the network namespace has, listeners included, TIME_WAIT and half-open ones not.

    Sockets that are in one of the hash tables (inet_hash(), net/ipv4/inet_hashtables.c). None where it is not known.
    """
    count = 0
    for file, prefix in (("sockstat", b"TCP: inuse "), ("sockstat6", b"TCP6: inuse ")):
        try:
            lines = (net / file).read_bytes().splitlines()
        except OSError:
            if file == "sockstat":
                return None
            continue  # a kernel without IPv6
        count += sum(int(line.removeprefix(prefix).split()[0]) for line in lines if line.startswith(prefix))
    return count


def _read_inside(link: int, inode: int, paths: list[str], held: _Held | None) -> bytes:
    for path in paths:
        # A process that ended, or whose number another one has got, is no way in any more.
        with suppress(FileNotFoundError, ProcessLookupError):
            namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(namespace).st_ino == inode:
                    _enter(namespace, path)
                    return held.records(inode) if held is not None and held.are_all(inode) else _read_all(link)
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
        return syscalls.read_iterator(link)
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
