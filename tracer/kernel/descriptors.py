"""Use a socket that another process has open: pidfd_open(2) (Linux 5.3) and pidfd_getfd(2) (Linux 5.6).

    with Descriptors().duplicate(pids, named_of(socket)) as duplicate:
        duplicate.socket.getsockopt(…)

The process does not notice: nothing stops it, and none of its system calls returns. pidfd_getfd() needs what
ptrace(2) needs to attach (PTRACE_MODE_ATTACH_REALCREDS, __pidfd_fget(), kernel/pid.c): CAP_SYS_PTRACE over the user
namespace of the process. Yama with kernel.yama.ptrace_scope=3 refuses it even then (yama_ptrace_access_check(),
security/yama/yama_lsm.c), and SELinux may (selinux_file_receive(), security/selinux/hooks.c).

The duplicate shares everything with the original, O_NONBLOCK, timeouts and the pending error included. So never call
settimeout(), setblocking() or shutdown() on its socket, and never read SO_ERROR, which the process would then miss.

While a duplicate is open, close(2) by the process does not close the connection, and does not wait for the peer with
SO_LINGER. An epoll set of the process goes on to report the socket (eventpoll_release(), called by __fput(),
fs/file_table.c). So keep it open for a short time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from tracer.kernel.processes import PROC
from tracer.kernel.sock_diag import MAPPED, Named
from tracer.kernel.traffic_classes import TrafficClasses

_SYS_PIDFD_GETFD = 438  # on every architecture that tcpwatch supports (include/uapi/asm-generic/unistd.h)
_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
_COOKIE = struct.Struct("=Q")
_LINGER = struct.Struct("=ii")  # struct linger: l_onoff, l_linger
_IPPROTO_MPTCP = 262  # include/uapi/linux/in.h

_REST_SHARE = 10

_libc = ctypes.CDLL(None, use_errno=True)


class Unreachable(Exception):
    """A socket cannot be duplicated. The text says why, for a person."""


class Gone(Unreachable):
    """The process has closed the socket, or has ended."""


class Duplicate:
    """A descriptor of this process for a socket of another one. A context manager, which closes it.

    socket: see above for what must not be done with it. pid, number: where it was found.
    """

    def __init__(self, duplicate: socket.socket, pid: int, number: int, inode: int) -> None:
        self.socket = duplicate
        self.pid = pid
        self.number = number
        self._inode = inode

    def __enter__(self) -> Duplicate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor of this process, without waiting for the peer. Closing again does nothing.

        The last close of a socket with SO_LINGER waits until data is acknowledged, or for the time that the process
        has set (inet_release(), net/ipv4/af_inet.c). That may be hours, so a thread does it. When this process exits,
        the kernel does not wait.
        """
        if self.socket.fileno() >= 0 and _may_wait(self.socket):
            with suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=self.socket.close, daemon=True).start()
                return
        self.socket.close()

    @property
    def cookie(self) -> int:
        """The number that the kernel gives to this socket only (sock_gen_cookie(), net/core/sock_diag.c)."""
        return int(_COOKIE.unpack(self.socket.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size))[0])

    def is_held(self) -> bool:
        """Whether the process still has the socket open under the same number."""
        return _inode_of(self.pid, self.number) == self._inode


class Descriptors:
    """Finds and duplicates sockets of other processes.

    Remembers the sockets of each process until one is missing, so that hundreds of one process cost one walk over
    /proc/PID/fd. rests: after a walk, take a missing socket for closed, for ten times as long as the walk took. For
    long lists of connections, where many may have been closed since.
    """

    def __init__(self, *, rests: bool = False) -> None:
        self._rest_share = _REST_SHARE if rests else 0
        self._classes = TrafficClasses()
        self._numbers: dict[int, dict[int, int]] = {}
        self._next_walk_s: dict[int, float] = {}

    def duplicate(self, pids: Iterable[int], named: Named, cookie: int | None = None) -> Duplicate:
        """Duplicate this socket, and check that it is the one: its inode, its local end, and the cookie if known.

        pids: processes that may hold it, in the PID namespace of this one. Raises Unreachable, and OSError if this
        process has no descriptor left. Gone where each of these processes has closed it.
        """
        reasons: list[Unreachable] = []
        for pid in pids:
            try:
                return self._duplicate(pid, named, cookie)
            except Unreachable as error:
                reasons.append(error)
        refused = [each for each in reasons if not isinstance(each, Gone)]
        raise (refused or reasons or [Unreachable("no process that tcpwatch sees has it open")])[0]

    def _duplicate(self, pid: int, named: Named, cookie: int | None) -> Duplicate:
        number = self._number(pid, named.inode)
        duplicate = Duplicate(_socket_of(self._get(pid, number)), pid, number, named.inode)
        try:
            if _is(duplicate, named, cookie):
                return duplicate
        except OSError:  # it has no ends any more
            pass
        duplicate.close()
        raise Gone(f"process {pid} closed it meanwhile")

    def _number(self, pid: int, inode: int) -> int:
        """The descriptor of the process for this socket. It may be another file's by the time of the answer."""
        number = self._numbers.get(pid, {}).get(inode)
        if number is None or _inode_of(pid, number) != inode:
            number = self._walk(pid).get(inode) if time.monotonic() >= self._next_walk_s.get(pid, 0) else None
        if number is None:
            raise Gone(f"process {pid} closed it meanwhile{_or_threads_have_it(pid)}")
        return number

    def _walk(self, pid: int) -> dict[int, int]:
        began_s = time.monotonic()
        try:
            numbers = [int(name) for name in os.listdir(PROC / str(pid) / "fd")]
            if numbers:
                _check_readable(pid, numbers[0])
        except PermissionError as error:
            raise Unreachable(f"the files of process {pid} cannot be read: {error.strerror}") from None
        except OSError as error:
            raise self._refused(error, pid) from error
        found = ((_inode_of(pid, number), number) for number in numbers)
        self._numbers[pid] = {inode: number for inode, number in found if inode}
        ended_s = time.monotonic()
        self._next_walk_s[pid] = ended_s + self._rest_share * (ended_s - began_s)
        return self._numbers[pid]

    def _get(self, pid: int, number: int) -> int:
        """pidfd_getfd(2): its descriptor `number`, close-on-exec."""
        if controller := self._classes.other(pid):
            raise Unreachable(f"its packets would get the {controller} class of tcpwatch: run it in the same cgroup")
        try:
            return _pidfd_getfd(pid, number)
        except OSError as error:
            raise self._refused(error, pid) from error

    def _refused(self, error: OSError, pid: int) -> Exception:
        """What to raise for an error of pidfd_open() or pidfd_getfd()."""
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return error
        if error.errno in (
            errno.ESRCH,
            errno.ENOENT,
            errno.EINVAL,
        ):  # EINVAL: the process that took the number is a thread's
            return Gone(f"process {pid} has ended")
        if error.errno == errno.EBADF:
            return Gone(f"process {pid} closed it meanwhile")
        return Unreachable(f"pidfd_getfd() refuses process {pid}: {error.strerror}")


def _pidfd_getfd(pid: int, number: int) -> int:
    """Raises OSError. The pidfd is closed at once: those of a server's thousand processes would exceed the limit."""
    pidfd = os.pidfd_open(pid)
    try:
        duplicate: int = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
        if duplicate < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(pidfd)
    return duplicate


def _socket_of(descriptor: int) -> socket.socket:
    """The socket of a descriptor, which it owns. Creating it leaves O_NONBLOCK as it is. Raises Unreachable."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError:  # the number is another file's by now
        os.close(descriptor)
        raise Gone("its descriptor was closed meanwhile") from None


def _is(duplicate: Duplicate, named: Named, cookie: int | None) -> bool:
    """Whether it is the socket that was meant. Raises OSError if it is not connected.

    The peer's address is not compared: a BPF program on the cgroup of the socket may have getpeername() return
    another one (inet_getname(), net/ipv4/af_inet.c), as Cilium does for the addresses of services.
    """
    found = duplicate.socket
    if os.fstat(found.fileno()).st_ino != named.inode or found.proto not in (socket.IPPROTO_TCP, _IPPROTO_MPTCP):
        return False
    found.getpeername()
    address, port = found.getsockname()[:2]
    is_local = (_plain(address), port) == (named.ends.laddr, named.ends.lport)
    return is_local and cookie in (None, duplicate.cookie)


def _may_wait(connection: socket.socket) -> bool:
    """Whether its last close(2) may wait for the peer."""
    try:
        is_on, wait_s = _LINGER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
    except OSError:  # a program on its cgroup refuses: expect the worst
        return True
    return bool(is_on and wait_s)


def _plain(address: str) -> str:
    """Without the scope of a link-local address, and without the prefix of a v4-mapped one."""
    raw = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]) if ":" in address else b""
    if raw.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return address.partition("%")[0]


def _check_readable(pid: int, number: int) -> None:
    """Raise PermissionError if the links to the files of this process cannot be read, as without CAP_SYS_PTRACE."""
    with suppress(FileNotFoundError):
        os.readlink(f"{PROC}/{pid}/fd/{number}")


def _or_threads_have_it(pid: int) -> str:
    """/proc/PID/fd and pidfd_getfd() reach the files of the main thread, which it may have left or not share."""
    with suppress(OSError):
        if len(os.listdir(PROC / str(pid) / "task")) > 1:
            return ", or only other threads than its main one have it"
    return ""


def _inode_of(pid: int, number: int) -> int:
    """The inode of a socket by its descriptor in a process; 0 if there is none, or another kind of file."""
    try:
        target = os.readlink(f"{PROC}/{pid}/fd/{number}")
    except OSError:
        return 0
    return int(target[8:-1]) if target.startswith("socket:[") else 0
