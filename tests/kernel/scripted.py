"""A TCP peer that a test scripts segment by segment, against this kernel's TCP at the other end.

A tun device in a network namespace of its own carries the packets: what the kernel sends is read from it, and what is
written to it the kernel receives. Nothing answers unless the script does, and every packet is recorded.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.forger import checksum

from tracer.lab.namespace import wait_until

KERNEL, PEER = "192.0.2.1", "192.0.2.2"
KERNEL6, PEER6 = "2001:db8::1", "2001:db8::2"
PORT = 8080
"""Of the server, whichever end that is."""
MSS = 1000
PATIENCE_S = 30.0
MAPPED = "mapped"
FAMILIES = (4, 6, MAPPED)

COUNTERS = {
    "snmp": ("TcpRetransSegs", "TcpOutRsts"),
    "netstat": (
        "TcpExtTCPTimeouts", "TcpExtTCPKeepAlive", "TcpExtTCPLossProbes", "TcpExtTCPWinProbe", "TcpExtTCPSynRetrans",
    ),
}  # fmt: skip
"""What the kernel counts of what a script may provoke, by file in /proc/net."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFINDEX = 0x8916, 0x891C, 0x8913, 0x8914, 0x8933
_IFF_UP = 1
_IFA_F_TENTATIVE = 0x40
_ICMP, _ICMP6, _TCP = 1, 58, 6
_LETTERS = "FSRPAUEC"
_END, _PAD, _MSS_OPTION, _WSCALE, _SACK_OK, _SACK, _TIMESTAMP, _FAST_OPEN = 0, 1, 2, 3, 4, 5, 8, 34
_DEVICE = "tun0"
_libc = ctypes.CDLL(None, use_errno=True)
_Socket = socket.socket  # for annotations beside the method `socket`


def _after(one: int, other: int) -> bool:
    """Whether a sequence number is later than another."""
    return 0 < (one - other) & 0xFFFFFFFF < 1 << 31


@dataclass(frozen=True)
class Segment:
    """A TCP segment as it was on the wire. at: seconds, monotonic. is_ours: from the kernel under test."""

    at: float
    is_ours: bool
    sport: int
    dport: int
    seq: int
    ack: int
    flags: str  # some of "FSRPAUEC", in this order
    window: int
    length: int
    options: dict[int, bytes] = field(default_factory=dict)
    packet: bytes = field(default=b"", repr=False)

    @property
    def end(self) -> int:
        """The sequence number after it."""
        return (self.seq + self.length + ("S" in self.flags) + ("F" in self.flags)) & 0xFFFFFFFF

    def __str__(self) -> str:
        arrow = ">" if self.is_ours else "<"
        where = f"{self.seq}:{self.end}({self.length}) ack {self.ack} win {self.window}"
        return f"{self.at:.3f} {arrow} {self.sport}-{self.dport} {self.flags} {where}"


def parse(packet: bytes, at: float, *, is_ours: bool) -> Segment | None:
    """The TCP segment of an IP packet; None for anything else."""
    if packet[0] >> 4 == 4:
        start, protocol = (packet[0] & 0xF) * 4, packet[9]
    else:
        start, protocol = 40, packet[6]
    if protocol != _TCP:
        return None
    sport, dport, seq, ack, offset, bits, window = struct.unpack_from("!HHIIBBH", packet, start)
    data = start + (offset >> 4) * 4
    flags = "".join(letter for bit, letter in enumerate(_LETTERS) if bits >> bit & 1)
    options = _parse_options(packet[start + 20 : data])
    return Segment(at, is_ours, sport, dport, seq, ack, flags, window, len(packet) - data, options, packet)


def _parse_options(raw: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    place = 0
    while place < len(raw) and raw[place] != _END:
        if raw[place] == _PAD:
            place += 1
            continue
        size = raw[place + 1]
        options[raw[place]] = raw[place + 2 : place + size]
        place += size
    return options


def option(kind: int, value: bytes) -> bytes:
    """One TCP option, padded to words of four bytes."""
    made = struct.pack("!BB", kind, len(value) + 2) + value
    return bytes([_PAD]) * (-len(made) % 4) + made


class ScriptedPeer:
    """The remote end of connections, for the thread that enters it: its sockets are made in the peer's namespace.

    Enter it as a context manager; afterwards the thread is back where it was. The namespace ends with the last of the
    sockets made in it. family: 4, 6 or MAPPED, IPv4 by sockets of AF_INET6. sysctls: net.… of the namespace.
    """

    def __init__(self, family: int | str = 4, **sysctls: int | str) -> None:
        self.family = family
        self.is_ipv4 = family != 6
        self.segments: list[Segment] = []
        """Everything that was on the wire, in both directions."""
        self._sysctls = sysctls
        self._next_port = 40001
        self._own = -1
        self._tun = -1
        self._kept: list[socket.socket] = []

    def __enter__(self) -> ScriptedPeer:
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self.netns = Path("/proc/thread-self/ns/net").stat().st_ino
            self._make_device()
            # The same on every host, and nothing that is remembered from one connection to the next.
            for name, value in (("tcp_congestion_control", "reno"), ("tcp_no_metrics_save", 1)):
                self.set_sysctl(name, value)
            for name, value in self._sysctls.items():
                self.set_sysctl(name, value)
            self.before = self.counters()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._kept:
            if each.fileno() >= 0:
                # Else the kernel goes on retransmitting for minutes what the script has left unanswered.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        if self._tun >= 0:
            os.close(self._tun)
            self._tun = -1
        if self._own >= 0:
            _check(_libc.setns(self._own, _CLONE_NEWNET))
            os.close(self._own)
            self._own = -1

    def _make_device(self) -> None:
        for interface in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{interface}/accept_dad").write_text("0", encoding="ascii")
            # Router solicitations would be noise on the wire.
            Path(f"/proc/sys/net/ipv6/conf/{interface}/router_solicitations").write_text("0", encoding="ascii")
        if not Path("/dev/net/tun").exists():
            subprocess.run(["modprobe", "tun"], check=True)
        self._tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._tun, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        name = _DEVICE.encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for request, address in ((_SIOCSIFADDR, KERNEL), (_SIOCSIFNETMASK, "255.255.255.0")):
                fcntl.ioctl(s, request, struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address)))
            for device in (b"lo", name):
                (flags,) = struct.unpack_from("H", fcntl.ioctl(s, _SIOCGIFFLAGS, struct.pack("16s24x", device)), 16)
                fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH22x", device, flags | _IFF_UP))
            (index,) = struct.unpack_from("i", fcntl.ioctl(s, _SIOCGIFINDEX, struct.pack("16s24x", name)), 16)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            address6 = socket.inet_pton(socket.AF_INET6, KERNEL6)
            fcntl.ioctl(s, _SIOCSIFADDR, struct.pack("=16sIi", address6, 64, index))
        # A work queue of the kernel's makes an address usable, even without duplicate address detection.
        wait_until(self._has_usable_address, PATIENCE_S, "a usable IPv6 address")

    @staticmethod
    def _has_usable_address() -> bool:
        rows = map(str.split, Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines())
        wanted = socket.inet_pton(socket.AF_INET6, KERNEL6).hex()
        return any(row[0] == wanted and not int(row[4], 16) & _IFA_F_TENTATIVE for row in rows)

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Set net.ipv4.NAME of the namespace."""
        Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value), encoding="ascii")

    def counters(self) -> dict[str, int]:
        """What the kernel has counted in the namespace so far, of COUNTERS."""
        counted = {}
        for file, names in COUNTERS.items():
            lines = Path(f"/proc/thread-self/net/{file}").read_text(encoding="ascii").splitlines()
            for heads, values in zip(lines[::2], lines[1::2]):
                prefix, *columns = heads.replace(":", "").split()
                found = {f"{prefix}{column}": int(value) for column, value in zip(columns, values.split()[1:])}
                counted.update({name: found[name] for name in names if name in found})
        return counted

    def counted(self) -> dict[str, int]:
        """What it has counted since the start of the script."""
        return {name: count - self.before[name] for name, count in self.counters().items()}

    def run(self, *argv: str) -> None:
        """Run a command in the namespace to its end."""
        subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE_S)

    def keep(self, made: socket.socket) -> socket.socket:
        """Close that socket at the end of the script, if nobody has done so before."""
        self._kept.append(made)
        return made

    # The wire.

    def write(self, payload: bytes, protocol: int) -> Segment | None:
        """Let the kernel receive an IP packet from the peer."""
        if self.is_ipv4:
            source, to = socket.inet_aton(PEER), socket.inet_aton(KERNEL)
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, source, to)
            header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        else:
            source, to = (socket.inet_pton(socket.AF_INET6, each) for each in (PEER6, KERNEL6))
            header = struct.pack("!IHBB16s16s", 0x60000000, len(payload), protocol, 64, source, to)
        packet = header + payload
        segment = parse(packet, time.monotonic(), is_ours=False)
        if segment is not None:
            self.segments.append(segment)
        os.write(self._tun, packet)
        return segment

    def read(self, timeout_s: float = 0, also: socket.socket | None = None) -> list[Segment]:
        """The segments that the kernel sends until something has come, or that long.

        also: a socket; a connection of it that can be accepted, an error and its end are something, too.
        """
        poll = select.poll()
        poll.register(self._tun, select.POLLIN)
        if also is not None:
            poll.register(also, select.POLLIN if also.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else 0)
        poll.poll(max(timeout_s, 0) * 1000)
        new = []
        while True:
            try:
                packet = os.read(self._tun, 65536)
            except BlockingIOError:
                break
            segment = parse(packet, time.monotonic(), is_ours=True)
            if segment is not None:
                new.append(segment)
        self.segments += new
        return new

    def until(
        self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S, also: socket.socket | None = None
    ) -> Any:
        """Answer nothing until the condition holds. AssertionError with what was on the wire where it never does.

        It is looked at with each segment, when `read` has something of the socket `also`, and a few times a second:
        many scripts may run at a time, on a slow machine.
        """
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"it did not come to that:\n{self}"
            self.read(0.25, also)
        return value

    def silence(self, seconds: float) -> None:
        """Answer nothing for that long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def __str__(self) -> str:
        return "\n".join(map(str, self.segments))

    # The kernel's end.

    @property
    def _socket_family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.family == 4 else socket.AF_INET6

    def address(self, *, of_kernel: bool) -> str:
        """Of the kernel's end or of the peer's, as a socket of this family writes it."""
        if self.family == 6:
            return KERNEL6 if of_kernel else PEER6
        address = KERNEL if of_kernel else PEER
        return f"::ffff:{address}" if self.family == MAPPED else address

    def socket(self) -> socket.socket:
        """A TCP socket that never blocks."""
        made = self.keep(socket.socket(self._socket_family, socket.SOCK_STREAM))
        made.setblocking(False)
        return made

    def listening(self, *options: tuple[int, int, int | bytes], port: int = PORT) -> _Socket:
        """A listener with these options, (level, name, value)."""
        made = self.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for level, name, value in options:
            made.setsockopt(level, name, value)
        made.bind((self.address(of_kernel=True), port))
        made.listen(8)
        return made

    def sockets(self) -> list[int]:
        """The states of the TCP sockets of the namespace that are not listeners, numbers of the kernel's."""
        states = []
        for file in ("tcp", "tcp6"):
            lines = Path(f"/proc/thread-self/net/{file}").read_text(encoding="ascii").splitlines()[1:]
            states += [int(line.split()[3], 16) for line in lines]
        return [state for state in states if state != 10]

    def is_over(self) -> bool:
        """Whether no connection is left, not even one without a socket; TIME_WAIT is over."""
        return all(state == 6 for state in self.sockets())

    # Connections.

    def syn(
        self,
        listener: _Socket | None = None,
        *,
        port: int = PORT,
        window: int = 20000,
        data: bytes = b"",
        **options: Any,
    ) -> Connection:
        """The peer connects: its SYN is received, and nothing is answered yet. options: of Connection.syn_options."""
        self._next_port += 1
        conn = Connection(self, lport=port, rport=self._next_port, window=window, listener=listener)
        conn.send("S", options=conn.syn_options(**options), data=data)
        return conn

    def accepted(self, listener: _Socket | None = None, *, window: int = 20000, **options: Any) -> Connection:
        """A connection that the peer has made and the application has accepted."""
        conn = self.syn(listener if listener is not None else self.listening(), window=window, **options)
        conn.expect("SA")
        conn.send("A")
        conn.accept()
        return conn

    def connecting(self, *options: tuple[int, int, int], window: int = 20000, bound_to: int = 0) -> Connection:
        """The application connects: its SYN is on the wire, and nothing is answered yet."""
        made = self.socket()
        for level, name, value in options:
            made.setsockopt(level, name, value)
        if bound_to:
            made.bind((self.address(of_kernel=True), bound_to))
        made.connect_ex((self.address(of_kernel=False), PORT))
        conn = Connection(self, lport=made.getsockname()[1], rport=PORT, window=window)
        conn.socket = made
        conn.expect("S")
        return conn

    def connected(self, *options: tuple[int, int, int], window: int = 20000, **of_syn: Any) -> Connection:
        """A connection that the application has made."""
        conn = self.connecting(*options, window=window)
        conn.send("SA", options=conn.syn_options(**of_syn))
        conn.expect("A")
        return conn


class Connection:
    """One connection, from the peer's side of it. lport: the kernel's end, as tcpwatch has it."""

    def __init__(
        self, peer: ScriptedPeer, *, lport: int, rport: int, window: int, listener: _Socket | None = None
    ) -> None:
        self.peer = peer
        self.lport, self.rport = lport, rport
        self.window = window
        self.listener = listener
        self.socket: Any = None  # of the application, once there is one
        self.start = 1000  # the peer's initial sequence number
        self.next = self.start  # what the peer sends next
        self.end = 0  # of what was received from the kernel so far
        self._looked = len(peer.segments)

    @staticmethod
    def syn_options(
        *,
        mss: int = MSS,
        sack: bool = True,
        wscale: int | None = None,
        cookie: bytes | None = None,
    ) -> bytes:
        """Those of the peer's SYN or SYN/ACK. cookie: of Fast Open, empty to ask for one."""
        made = option(_MSS_OPTION, struct.pack("!H", mss))
        if sack:
            made += option(_SACK_OK, b"")
        if wscale is not None:
            made += option(_WSCALE, bytes([wscale]))
        if cookie is not None:
            made += option(_FAST_OPEN, cookie)
        return made

    def sent(self) -> list[Segment]:
        """What the kernel has sent on this connection so far."""
        return [
            each
            for each in self.peer.segments
            if each.is_ours and (each.sport, each.dport) == (self.lport, self.rport)
        ]

    def expect(
        self, flags: str | None = None, *, length: int | None = None, timeout_s: float = PATIENCE_S
    ) -> Segment:
        """The next segment with exactly these flags and this length that the kernel sends; others are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._looked < len(self.peer.segments):
                each = self.peer.segments[self._looked]
                self._looked += 1
                if not each.is_ours or (each.sport, each.dport) != (self.lport, self.rport):
                    continue
                if "R" not in each.flags and ("S" in each.flags or _after(each.end, self.end)):
                    self.end = each.end
                if flags in (None, each.flags) and length in (None, each.length):
                    return each
            left = deadline - time.monotonic()
            assert left > 0, f"no {flags} of {length} bytes came:\n{self.peer}"
            self.peer.read(left)

    def expect_data(self, count: int) -> None:
        """Wait until so many bytes beyond what was received so far have come, in whatever segments."""
        until = (self.end + count) & 0xFFFFFFFF
        while _after(until, self.end):
            self.expect()

    def send(
        self,
        flags: str,
        *,
        seq: int | None = None,
        ack: int | None = None,
        data: bytes = b"",
        window: int | None = None,
        sack: Sequence[tuple[int, int]] = (),
        options: bytes = b"",
    ) -> None:
        """A segment of the peer's; by default the next one, and acknowledging all that was received."""
        if window is not None:
            self.window = window
        if sack:
            edges = b"".join(struct.pack("!II", *each) for each in sack)
            options += option(_SACK, edges)
        seq_used = self.next if seq is None else seq & 0xFFFFFFFF
        ack_used = (self.end if ack is None else ack & 0xFFFFFFFF) if "A" in flags else 0
        bits = sum(1 << _LETTERS.index(letter) for letter in flags)
        words = 5 + len(options) // 4
        segment = struct.pack(
            "!HHIIBBHHH", self.rport, self.lport, seq_used, ack_used, words << 4, bits, self.window, 0, 0
        )
        segment += options + data
        if self.peer.is_ipv4:
            pseudo = socket.inet_aton(PEER) + socket.inet_aton(KERNEL) + struct.pack("!HH", _TCP, len(segment))
        else:
            ends = b"".join(socket.inet_pton(socket.AF_INET6, each) for each in (PEER6, KERNEL6))
            pseudo = ends + struct.pack("!II", len(segment), _TCP)
        segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
        written = self.peer.write(segment, _TCP)
        assert written is not None
        if seq is None:
            self.next = written.end

    def ack(self, *, window: int | None = None, **others: Any) -> None:
        """Acknowledge all that was received, or what `ack` says."""
        self.send("A", window=window, **others)

    def reset(self, *, off_by: int = 0, flags: str = "RA") -> None:
        """A RST where it has to be, or off by that."""
        self.send(flags, seq=self.next + off_by)

    def icmp_unreachable(self, code: int = 1, *, mtu: int = 0) -> None:
        """ICMP: destination unreachable, in answer to the last segment of the kernel's. code: as IPv4 has them.

        4 is "fragmentation needed", with the MTU of the path; of IPv6 that is "packet too big".
        """
        quoted = self.sent()[-1].packet
        if self.peer.is_ipv4:
            message = struct.pack("!BBHHH", 3, code, 0, 0, mtu) + quoted[:64]
            message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
            self.peer.write(message, _ICMP)
            return
        kind, code6 = (2, 0) if code == 4 else (1, {0: 0, 1: 3, 3: 4}[code])
        message = struct.pack("!BBHI", kind, code6, 0, mtu) + quoted[:1000]
        ends = b"".join(socket.inet_pton(socket.AF_INET6, each) for each in (PEER6, KERNEL6))
        pseudo = ends + struct.pack("!II", len(message), _ICMP6)
        self.peer.write(message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:], _ICMP6)

    # The application.

    def accept(self) -> None:
        """Take it from the listener."""
        assert self.listener is not None
        listener = self.listener

        def taken() -> bool:
            try:
                self.socket = self.peer.keep(listener.accept()[0])
            except BlockingIOError:
                return False
            self.socket.setblocking(False)
            return True

        self.peer.until(taken, also=listener)

    def write(self, count: int) -> None:
        """The application writes so many bytes, all at once."""
        assert self.socket.send(b"x" * count) == count

    def state(self) -> int:
        """Of the application's socket, as the kernel numbers them."""
        return int(self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])

    def error(self, timeout_s: float = PATIENCE_S) -> int:
        """Answer nothing until the kernel has closed the socket, and return the error that the application gets."""
        self.peer.until(lambda: self.state() == 7, timeout_s, also=self.socket)
        return int(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
