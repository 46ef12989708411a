"""A middlebox that resets connections: `python forger.py`, in the firewall's namespace. IPv4 only.

It imports only the standard library, so that it runs by its path alone. It follows every connection that it forwards,
prints `ready`, and obeys commands on stdin. It answers each with one line:

reset PORT END OFFSET   Send a RST to END (`client` or `server`) of the connection with this client port, with the
                        other end's address as the source. Its sequence number is the one that END expects next,
                        plus OFFSET. Prints `sent`, or `not yet` while END has unacknowledged data to receive.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import struct
import sys
import threading
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_ETH_P_IP = 0x0800
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10

End = tuple[bytes, int]  # address and port


@dataclass(frozen=True)
class Segment:
    """One TCP segment. end: the sequence number after it. acknowledged: the one that its sender expects next."""

    source: End
    destination: End
    end: int
    acknowledged: int


def parse(packet: bytes) -> Segment | None:
    """The TCP segment of an IPv4 packet; None if it is another protocol's or has no ACK flag."""
    header = (packet[0] & 0xF) * 4
    flags = packet[header + 13]
    if packet[9] != socket.IPPROTO_TCP or not flags & _ACK:
        return None
    source_port, destination_port, sequence, acknowledged = struct.unpack_from("!HHII", packet, header)
    length = struct.unpack_from("!H", packet, 2)[0] - header - (packet[header + 12] >> 4) * 4
    end = sequence + length + bool(flags & _SYN) + bool(flags & _FIN)
    return Segment((packet[12:16], source_port), (packet[16:20], destination_port), end, acknowledged)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reset(source: End, destination: End, sequence: int) -> bytes:
    """An IPv4 packet with a RST. The kernel fills in the length and the checksum of the IP header (raw(7))."""
    segment = struct.pack("!HHIIBBHHH", source[1], destination[1], sequence, 0, 5 << 4, _RST, 0, 0, 0)
    pseudo = source[0] + destination[0] + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0, source[0], destination[0])
    return ip + segment


class Follower:
    """The last segment of each end of each connection."""

    def __init__(self) -> None:
        self._last: dict[tuple[End, End], Segment] = {}
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while True:
            segment = parse(self._packets.recv(65536))
            if segment is not None:
                self._last[segment.source, segment.destination] = segment

    def ready(self, client_port: int, end: str) -> Segment | None:
        """The last segment from `end` of the connection with this client port, once it acknowledges all data."""
        for segment in list(self._last.values()):
            if (segment.source if end == "client" else segment.destination)[1] != client_port:
                continue
            other = self._last.get((segment.destination, segment.source))
            if other is not None and (segment.acknowledged - other.end) & 0xFFFFFFFF < 1 << 31:
                return segment
        return None


def main() -> None:
    """Obey stdin until it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    follower = Follower()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        print("ready", flush=True)
        for line in sys.stdin:
            _, port, end, offset = line.split()
            last = follower.ready(int(port), end)
            if last is not None:
                sequence = (last.acknowledged + int(offset)) & 0xFFFFFFFF
                raw.sendto(reset(last.destination, last.source, sequence), (socket.inet_ntoa(last.source[0]), 0))
            print("sent" if last is not None else "not yet", flush=True)


if __name__ == "__main__":
    main()
