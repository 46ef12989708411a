"""The current state of every TCP connection of this host.

sock_diag, which `ss` uses, lacks the keepalive settings. BPF iterators (bpf/sockets.bpf.c) read them from the socket.

The iterator over TCP sockets returns those of one network namespace, but visits the sockets of all: with N namespaces
it visits each socket of the host N times (established_get_first(), net/ipv4/tcp_ipv4.c). Beyond MAX_NAMESPACES, one
walk over the open files of all processes finds the sockets that processes hold. A namespace is then walked only
if its own count of sockets shows that it has others, such as closing connections of a process that has ended.

Without CAP_SYS_ADMIN no other namespace can be entered. Of those, the connections that processes hold are returned.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tracer.kernel import clocks, host
from tracer.kernel.held_records import HeldRecords
from tracer.kernel.holders import Held, HolderFinder, holder_finder
from tracer.kernel.owner_names import NameFinder
from tracer.kernel.program import syscalls
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.loading import load
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import SOCKETS, source_for
from tracer.kernel.socket_records import SocketRecords, event_of
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter
from tracer.model.sockets import Socket

MAX_NAMESPACES = 32
"""Network namespaces that are walked one by one."""
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h

# A mounted namespace file in mountinfo: `36 25 0:4 net:[4026532000] /run/netns/name rw shared:17 - nsfs nsfs rw`
_MOUNTED = re.compile(r"^\S+ \S+ \S+ net:\[(\d+)\] (\S+) .* - nsfs ", re.MULTILINE)
_OCTAL = re.compile(r"\\([0-7]{3})")


def read_sockets(wanted: Filter, say: Callable[[str], None] = lambda _: None) -> list[Socket]:
    """The connections of every network namespace with their processes, in no order: no listeners, no TIME_WAIT.

    A namespace is found by a process in it or by a mount. say: takes a line for the user, such as one about
    namespaces that may not be entered. Raises TcpwatchError for whatever is missing on this host.
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

    def prepare(program: Program) -> tuple[int, int | None, HolderFinder]:
        program.configure(wanted)
        link = program.link_iterator("bpf_iter__tcp", iterates)
        return link, _held_sockets(program, task_file), holder_finder(program, task_file)

    program, (link, held_link, holders) = load(source, Program, prepare, say)
    with program:
        data, closed = _walk(link, held_link, wanted.netns)
        # After the sockets, so that each one is included.
        held = _holders_of_all(holders)
    if closed:
        say(
            f"connections that no process holds are missing from {closed} other network namespace{'s' * (closed > 1)}"
            ", because entering one needs CAP_SYS_ADMIN"
        )
    chooses = wanted.of_any_connection().chooses if wanted.chooses_events else None
    return list(SocketRecords(hz, held, clocks.offset_ns(), chooses).decode(data))


def _holders_of_all(find: HolderFinder) -> Held:
    with suppress(OSError, MemoryError):  # the sockets are shown without their owners
        return find(None)
    return {}


def _held_sockets(program: Program, task_file: int | None) -> int | None:
    """The link of the iterator over held sockets; None where the kernel refuses it."""
    if task_file is None:
        return None
    try:
        return program.link_iterator("report_held_socket", task_file)
    except ProgramError:
        return None


def _walk(link: int, held_link: int | None, only: Collection[int]) -> tuple[bytes, int]:
    """The records of every network namespace, or only of these inodes, and how many may not be entered.

    An iterator walks the namespace of the thread that creates it (bpf_iter_init_seq_net(), fs/proc/proc_net.c). A
    thread of its own enters them, because it cannot be used for anything else afterwards.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_walk_each, link, held_link, only).result()


def _walk_each(link: int, held_link: int | None, only: Collection[int]) -> tuple[bytes, int]:
    walked = {inode: paths for inode, paths in namespaces().items() if not only or inode in only}
    held = HeldRecords(_read_all(held_link)) if held_link is not None and len(walked) > MAX_NAMESPACES else None
    records: dict[int, bytes] = {}
    closed = 0
    own = own_namespace()
    for inode in sorted(walked, key=lambda inode: inode != own):
        try:
            records[inode] = _read_inside(link, inode, walked[inode], held)
        except NotPermitted:
            if held_link is None:
                raise
            closed += 1
    if closed and held_link is not None:
        held = held or HeldRecords(_read_all(held_link))
        for inode in held.namespaces - records.keys():
            if not only or inode in only:
                records[inode] = held.records(inode)
    return b"".join(records.values()), closed


class HeldSockets:
    """The connections that processes hold, in every network namespace, to be read again and again.

    It walks over the open files of all processes and enters no namespace, so unlike read_sockets() it does not need
    CAP_SYS_ADMIN. Close it, or use it as a context manager.
    """

    def __init__(self, wanted: Filter, say: Callable[[str], None] = lambda _: None) -> None:
        """wanted: as for read_sockets(). Raises TcpwatchError for whatever is missing on this host."""
        host.require_privilege()
        self._hz = host.hz()
        with KernelTypes() as types:
            source = source_for(SOCKETS, types, hz=self._hz)
            task_file = types.function("bpf_iter_task_file")

        def prepare(program: Program) -> tuple[int | None, HolderFinder]:
            program.configure(wanted)
            return _held_sockets(program, task_file), holder_finder(program, task_file)

        self._program, (link, self._holders) = load(source, Program, prepare, say)
        self._choice = wanted.of_any_connection()
        self._names = NameFinder()
        if link is None:
            self.close()
            raise TcpwatchError(
                "this kernel has no BPF iterator over open files, which came with Linux 5.8",
                hint="uname -r; run it again and again without --follow",
            )
        self._link = link

    def __enter__(self) -> HeldSockets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload the program."""
        self._program.close()

    def read(self) -> list[Socket]:
        """Those that the filters of connections accept, whatever their process. Raises TcpwatchError."""
        data = HeldRecords(_read_all(self._link)).all_records()
        held = _holders_of_all(self._holders)
        # One without a holder was closed since.
        records = SocketRecords(self._hz, held, clocks.offset_ns(), names=self._names)
        return [each for each in records.decode(data) if each.inode in held]

    def chooses(self, socket: Socket) -> bool:
        """Whether the filters of processes and of silence accept it, too."""
        return self._choice.chooses(event_of(socket))


class NotPermitted(TcpwatchError):
    """This process may not enter a network namespace (netns_install(), net/core/net_namespace.c)."""


def _read_inside(link: int, inode: int, paths: list[str], held: HeldRecords | None) -> bytes:
    if not enter(inode, paths):
        return b""
    return held.records(inode) if held is not None and held.are_all(inode) else _read_all(link)


def enter(inode: int, paths: list[str]) -> bool:
    """Move this thread into a network namespace by one of the files that lead there; False if it is gone.

    Raises NotPermitted. The namespace that the thread is in needs no capability.
    """
    with suppress(OSError):
        if Path("/proc/thread-self/ns/net").stat().st_ino == inode:
            return True
    for path in paths:
        # The process may have ended, or its pid may belong to another one.
        with suppress(FileNotFoundError, ProcessLookupError):
            namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(namespace).st_ino == inode:
                    _enter(namespace, path)
                    return True
            finally:
                os.close(namespace)
    return False


def _enter(namespace: int, path: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise NotPermitted(
            f"the network namespace {path} cannot be entered: {os.strerror(ctypes.get_errno())}",
            hint="that needs CAP_SYS_ADMIN: run it on the host, as root with all capabilities",
        )


def _read_all(link: int) -> bytes:
    try:
        return syscalls.read_iterator(link)
    except OSError as error:
        raise TcpwatchError(
            f"the walk over the sockets failed: {error.strerror}", hint="try it again; sudo tcpwatch check; free -m"
        ) from error


def namespaces(proc: Path = Path("/proc")) -> dict[int, list[str]]:
    """Every network namespace by its inode, with the files that lead into it, the most durable ones first."""
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


def own_namespace() -> int:
    """The inode of the network namespace of this process."""
    return Path("/proc/self/ns/net").stat().st_ino
