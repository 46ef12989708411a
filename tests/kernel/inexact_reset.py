"""Answers the first segment of a client with a RST that lies in its window, but not exactly where it must (RFC 5961).

python inexact_reset.py SERVER PORT, in the server's namespace. Prints `ready`, then `sent`.
"""

from __future__ import annotations

import socket
import struct
import sys

_ACK, _RST = 0x10, 0x04


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> None:
    server, port = sys.argv[1], int(sys.argv[2])
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as seen,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw,
    ):
        print("ready", flush=True)
        while True:
            packet = seen.recv(65536)
            header = (packet[0] & 0xF) * 4
            length = struct.unpack_from("!H", packet, 2)[0]
            if packet[9] != socket.IPPROTO_TCP:
                continue
            client_port, to_port, _, acknowledged = struct.unpack_from("!HHII", packet, header)
            data = length - header - (packet[header + 12] >> 4) * 4
            if to_port == port and data > 0:
                break
        client = packet[12:16]
        sequence = (acknowledged + 1000) & 0xFFFFFFFF
        segment = struct.pack("!HHIIBBHHH", port, client_port, sequence, 0, 5 << 4, _RST, 0, 0, 0)
        pseudo = socket.inet_aton(server) + client + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
        segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
        raw.sendto(segment, (socket.inet_ntoa(client), 0))
        print("sent", flush=True)


if __name__ == "__main__":
    main()
