"""The current state of every TCP connection of this host.

sock_diag, which `ss` uses, lacks the keepalive settings. BPF iterators (bpf/sockets.bpf.c) read them from the socket.

The iterator over TCP sockets returns those of one network namespace, but visits the sockets of all: with N namespaces
it visits each socket of the host N times (established_get_first(), net/ipv4/tcp_ipv4.c). Beyond MAX_NAMESPACES, one
walk over the open files of all processes finds the sockets that processes hold. A namespace is then walked only
if its own count of sockets shows that it has others, such as closing connections of a process that has ended.
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
from tracer.kernel.holders import Held, HolderFinder, holder_finder
from tracer.kernel.layout import OFFSETS, SIZE
from tracer.kernel.owner_names import NameFinder
from tracer.kernel.program import syscalls
from tracer.kernel.program.btf import KernelTypes
from tracer.kernel.program.compiler import ProgramError
from tracer.kernel.program.loading import load
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import SOCKETS, source_for
from tracer.kernel.socket_records import SocketRecords, event_of, sk_of
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

    A namespace is found by a process in it or by a mount. say: takes a line for the user. Raises TcpwatchError for
    whatever is missing on this host.
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
        data = _walk(link, held_link, wanted.netns)
        # After the sockets, so that each one is included.
        held = _holders_of_all(holders)
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


def _walk(link: int, held_link: int | None, only: Collection[int]) -> bytes:
    """The records of every network namespace, or only of these inodes.

    An iterator walks the namespace of the thread that creates it (bpf_iter_init_seq_net(), fs/proc/proc_net.c). A
    thread of its own enters them, because it cannot be used for anything else afterwards.
    """
    walked = {inode: paths for inode, paths in namespaces().items() if not only or inode in only}
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_walk_each, link, held_link if len(walked) > MAX_NAMESPACES else None, walked).result()


def _walk_each(link: int, held_link: int | None, walked: Mapping[int, list[str]]) -> bytes:
    held = _Held(_read_all(held_link)) if held_link is not None else None
    return b"".join(_read_inside(link, inode, paths, held) for inode, paths in walked.items())


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
        data = _Held(_read_all(self._link)).all_records()
        held = _holders_of_all(self._holders)
        # One without a holder was closed since.
        records = SocketRecords(self._hz, held, clocks.offset_ns(), names=self._names)
        return [each for each in records.decode(data) if each.inode in held]

    def chooses(self, socket: Socket) -> bool:
        """Whether the filters of processes and of silence accept it, too."""
        return self._choice.chooses(event_of(socket))


class _Held:
    """The records of the sockets that processes hold, by network namespace."""

    def __init__(self, data: bytes) -> None:
        self._by_netns: dict[int, dict[int, dict[int, bytes]]] = {}
        for start in range(0, len(data), SIZE):
            record = data[start : start + SIZE]
            # Several processes may hold one socket. One in trouble has two records.
            of_socket = self._by_netns.setdefault(_netns_of(record), {}).setdefault(sk_of(record), {})
            of_socket[_type_of(record)] = record

    def records(self, netns: int) -> bytes:
        """The records of connections that the filters accept."""
        of_sockets = self._by_netns.get(netns, {}).values()
        return b"".join(record for each in of_sockets for number, record in each.items() if number)

    def all_records(self) -> bytes:
        """Those of every namespace."""
        return b"".join(map(self.records, self._by_netns))

    def are_all(self, netns: int) -> bool:
        """Whether these are all sockets of the namespace, which this thread has entered, by the kernel's count."""
        counted = _sockets_in_use()
        return counted is not None and counted == len(self._by_netns.get(netns, {}))


def _netns_of(record: bytes) -> int:
    return int.from_bytes(record[OFFSETS["netns"] : OFFSETS["netns"] + 4], "little")


def _type_of(record: bytes) -> int:
    return record[OFFSETS["type"]]


def _sockets_in_use(net: Path = Path("/proc/thread-self/net")) -> int | None:
    """The number of TCP sockets in a hash table of this network namespace (inet_hash(), net/ipv4/inet_hashtables.c).

    With listeners, without TIME_WAIT and request sockets. None if unknown.
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
    if not enter(inode, paths):
        return b""
    return held.records(inode) if held is not None and held.are_all(inode) else _read_all(link)


def enter(inode: int, paths: list[str]) -> bool:
    """Move this thread into a network namespace by one of the files that lead there; False if it is gone.

    Raises TcpwatchError if that is not permitted.
    """
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
