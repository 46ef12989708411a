"""Look at one TCP socket, and end it: NETLINK_SOCK_DIAG, which `ss` and `ss -K` use.

A request names a socket by the ends of its connection. The kernel looks it up as it does for a received segment: if
no connection has these ends it finds a listener (inet_diag_find_one_icsk(), net/ipv4/inet_diag.c). So each request
after the first carries the cookie, a number that the kernel gives to one socket only (sock_gen_cookie(),
net/core/sock_diag.c). For a socket with another cookie the kernel reports ENOENT.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from tracer.kernel.sockets import enter, namespaces
from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.events import STATES
from tracer.model.sockets import Socket

# include/uapi/linux/netlink.h, sock_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2: family, protocol, extensions, states, id
_ANSWER = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
_ID = struct.Struct("=2s2s16s16sIQ")  # struct inet_diag_sockid: ports, addresses, device, cookie
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_INET_DIAG_INFO = 2  # struct tcp_info
_TCP_INFO = struct.Struct("=52xII168xI")  # tcpi_last_data_recv, tcpi_last_ack_recv, tcpi_snd_wnd (5.4)
_ERROR = struct.Struct("=i")  # struct nlmsgerr, its first member
_ANY_COOKIE = 0xFFFFFFFFFFFFFFFF  # INET_DIAG_NOCOOKIE in both halves

MAPPED = bytes(10) + b"\xff\xff"
"""The beginning of a v4-mapped address."""
_TIMERS = {1: "on", 2: "keepalive", 4: "persist"}  # inet_sk_diag_fill()
_BUFFER_BYTES = 1 << 16
_NOT_CONNECTIONS = frozenset({"TIME_WAIT", "CLOSE", "LISTEN", "NEW_SYN_RECV"})
_CONNECTIONS = sum(1 << number for number, name in STATES.items() if name not in _NOT_CONNECTIONS)
_AFTER_CLOSE = frozenset({"FIN_WAIT1", "FIN_WAIT2", "CLOSING", "LAST_ACK"})


class Ends(NamedTuple):
    """The two ends of a connection, the local one first. A v4-mapped address is written as IPv4."""

    laddr: str
    lport: int
    raddr: str
    rport: int


class Named(NamedTuple):
    """A connection as a person names it. inode: of its socket; 0 if no process holds one."""

    ends: Ends
    inode: int


class Identity(NamedTuple):
    """One socket of a network namespace. number: struct inet_diag_sockid, with the cookie."""

    family: int
    number: bytes


def named_of(found: Socket) -> Named | None:
    """How the kernel is asked for this connection; None while connect() has not chosen its ends."""
    if found.laddr is None or found.lport is None or found.raddr is None or found.rport is None:
        return None
    return Named(Ends(found.laddr, found.lport, found.raddr, found.rport), found.inode or 0)


@dataclass(frozen=True, slots=True)
class Look:
    """A socket at one moment. attempt: as `ss -o` counts. inode: 0 if no process holds the socket.

    silent_ms: since a segment of the peer acknowledged or had data. snd_wnd: None, as silent_ms, where not asked for.
    """

    identity: Identity
    ends: Ends
    state: str
    timer: str | None
    timer_ms: int | None
    attempt: int | None
    inode: int
    silent_ms: int | None = None
    snd_wnd: int | None = None

    def is_named(self, named: Named) -> bool:
        """Whether it is this connection, and not a listener or what is left of one."""
        return (self.ends, self.inode) == named and self.state not in _NOT_CONNECTIONS

    @property
    def is_closed(self) -> bool:
        """Whether the application has closed it. The kernel still sends what is left, without a process."""
        return self.inode == 0 and self.state in _AFTER_CLOSE


class SockDiag:
    """The sockets of one network namespace: the one in which the thread was that made this. Raises OSError.

    The namespace exists as long as this is open. Any thread may use it, one at a time.
    """

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._sequence = 0

    def __enter__(self) -> SockDiag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.close()

    def find(self, wanted: Iterable[Named]) -> dict[Named, Look]:
        """Those of these connections that exist."""
        found: dict[Named, Look] = {}
        missing: set[Named] = set()
        for named in wanted:
            look = self._look(_AF[":" in named.ends.raddr], _number_of(named.ends))
            if look is not None and look.is_named(named):
                found[named] = look
            else:
                missing.add(named)
        if missing:
            # A socket that is bound to a device is only found with the number of the device.
            for look in self._connections():
                named = Named(look.ends, look.inode)
                if named in missing and look.is_named(named):
                    found[named] = look
        return found

    def look(self, identity: Identity) -> Look | None:
        """The socket as it is now; None once it is gone."""
        found = self._look(*identity)
        return None if found is None or found.state in _NOT_CONNECTIONS else found

    def destroy(self, identity: Identity) -> bool:
        """End the connection: its calls fail with ECONNABORTED (tcp_abort(), net/ipv4/tcp.c). False: it is gone."""
        if _ID.unpack(identity.number)[-1] in (0, _ANY_COOKIE):
            raise ValueError("a socket without a cookie could be any")
        try:
            list(self._ask(_SOCK_DESTROY, _NLM_F_ACK, *identity))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def can_destroy(self) -> bool:
        """Whether this kernel can end connections (CONFIG_INET_DIAG_DESTROY).

        Asks it to end a connection that cannot exist: port 0, and a cookie that is never given.
        """
        try:
            list(self._ask(_SOCK_DESTROY, _NLM_F_ACK, socket.AF_INET, bytes(_ID.size)))
        except OSError as error:
            return error.errno != errno.EOPNOTSUPP
        return True

    def _look(self, family: int, number: bytes) -> Look | None:
        try:
            return next(self._ask(_SOCK_DIAG_BY_FAMILY, 0, family, number), None)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def _connections(self) -> Iterator[Look]:
        for family in _AF:
            yield from self._ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, family, bytes(_ID.size))

    def _ask(self, kind: int, flags: int, family: int, number: bytes) -> Iterator[Look]:
        self._sequence += 1
        extensions = 0 if flags else 1 << (_INET_DIAG_INFO - 1)  # for a single look
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, _CONNECTIONS, number)
        header = _HEADER.pack(_HEADER.size + len(request), kind, _NLM_F_REQUEST | flags, self._sequence, 0)
        self._netlink.send(header + request)
        while True:
            for kind_of_answer, sequence, payload in _messages(self._netlink.recv(_BUFFER_BYTES)):
                if sequence != self._sequence:
                    continue  # the rest of an answer that nobody took
                if kind_of_answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    (result,) = _ERROR.unpack_from(payload) if len(payload) >= _ERROR.size else (0,)
                    if result < 0:
                        raise OSError(-result, os.strerror(-result))
                    return
                yield _look_of(payload)
                if flags == 0:  # one answer, and no acknowledgement
                    return


_AF = (socket.AF_INET, socket.AF_INET6)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and payload of each netlink message."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, start)
        yield kind, sequence, data[start + _HEADER.size : start + length]
        start += max(_HEADER.size, length + 3 & ~3)


def _look_of(payload: bytes) -> Look:
    family, state, timer, attempt, number, timer_ms, _, _, _, inode = _ANSWER.unpack_from(payload)
    lport, rport, laddr, raddr, _, _ = _ID.unpack(number)
    name = _TIMERS.get(timer)
    data_ms, acked_ms, snd_wnd = _info_of(payload) or (None, None, None)
    return Look(
        Identity(family, number),
        Ends(_address(family, laddr), _port(lport), _address(family, raddr), _port(rport)),
        STATES.get(state, str(state)),
        name,
        None if name is None else timer_ms,
        None if name is None else attempt,
        inode,
        None if data_ms is None or acked_ms is None else min(data_ms, acked_ms),
        snd_wnd,
    )


def _info_of(payload: bytes) -> tuple[int, ...] | None:
    start = _ANSWER.size
    while start + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, start)
        if kind == _INET_DIAG_INFO and length >= _ATTRIBUTE.size + _TCP_INFO.size:
            return _TCP_INFO.unpack_from(payload, start + _ATTRIBUTE.size)
        start += max(_ATTRIBUTE.size, length + 3 & ~3)
    return None


def _port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if raw.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def _number_of(ends: Ends) -> bytes:
    """A request for any socket with these ends, bound to no device. IPv4 finds a v4-mapped socket, too."""
    family = _AF[":" in ends.raddr]
    laddr, raddr = (socket.inet_pton(family, address).ljust(16, b"\0") for address in (ends.laddr, ends.raddr))
    lport, rport = (port.to_bytes(2, "big") for port in (ends.lport, ends.rport))
    return _ID.pack(lport, rport, laddr, raddr, 0, _ANY_COOKIE)


def open_each(inodes: Iterable[int]) -> Mapping[int, SockDiag]:
    """A SockDiag for each of these network namespaces that still exists. Raises TcpwatchError.

    A thread of its own enters them, because it cannot be used for anything else afterwards.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_open_each, sorted(set(inodes))).result()


def _open_each(inodes: Iterable[int]) -> Mapping[int, SockDiag]:
    paths = namespaces()
    with explained():
        return {inode: SockDiag() for inode in inodes if enter(inode, paths.get(inode, []))}


@contextmanager
def explained() -> Iterator[None]:
    """Turn an OSError of a SockDiag into a TcpwatchError, unless this process is out of descriptors or memory."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise TcpwatchError(
            f"the kernel answers no request for a single socket (NETLINK_SOCK_DIAG): {error.strerror}",
            hint="sudo modprobe tcp_diag; grep CONFIG_INET /boot/config-$(uname -r)",
        ) from error
