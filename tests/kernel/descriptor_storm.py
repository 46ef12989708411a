"""Sockets that take each other's descriptors and ports: `descriptor_storm.py SLOTS FIRST_CHOSEN FIRST_BYSTANDER`.

A thread for each slot connects over loopback, by turns from its chosen and from its bystander's port. It puts the
connection on the descriptor of the slot: dup2(2) closes the one before at that moment. So whatever was found at a
descriptor or at a port a moment ago may be another connection by now. Each lives for up to 0.3 s, and then its
process looks for what was done to it.

Prints `ready`. At the end of stdin it prints JSON about the chosen ones, the bystanders and the accepted ends: the
number that `lived`, the number that were `protected`, and what is `wrong`: an option or an error that they should not
have.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field

_ABORT = struct.pack("ii", 1, 0)
_INT = struct.Struct("=I")
_SEGMENTS_OUT = 136  # tcpi_segs_out of struct tcp_info, include/uapi/linux/tcp.h
_HANDSHAKE = 2
"""The segments that a client sends for it."""
_FIRST_DESCRIPTOR = 900  # above those of the accepted ends
_LIVES_S = (0.03, 0.03, 0.03, 0.3)
"""The longest life, by slot: also on a slow machine some have gone, and some are reached."""
_KEPT = 800
"""Accepted ends, so that each is open for longer than the other one."""
_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""A duplicate of the connection before is open, which keeps its port for some microseconds (docs/acting.md)."""


@dataclass
class Seen:
    lived: int = 0
    protected: int = 0
    wrong: list[str] = field(default_factory=list)

    def look(self, connection: socket.socket, *, may_be_chosen: bool) -> None:
        """Count it. Only one that may be chosen may have keepalive, or be probed. It has not sent anything yet."""
        self.lived += 1
        keepalive, idle_s, timeout_ms = (
            connection.getsockopt(level, option)
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        )
        if may_be_chosen and (keepalive or timeout_ms):
            self.protected += 1
        elif (keepalive, idle_s, timeout_ms) != (0, 7200, 0):
            self.wrong.append(f"keepalive {keepalive}, {idle_s} s, user timeout {timeout_ms} ms")
        reuse = connection.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        if not reuse and may_be_chosen:
            time.sleep(0.2)
            reuse = connection.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        if not reuse:
            self.wrong.append("SO_REUSEADDR is off")
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS_OUT + _INT.size)
        (segments,) = _INT.unpack_from(info, _SEGMENTS_OUT)
        if segments != _HANDSHAKE and not may_be_chosen:
            self.wrong.append(f"{segments} segments were sent")
        if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.wrong.append(errno.errorcode[number])


over = threading.Event()
chosen, bystanders, accepted = Seen(), Seen(), Seen()


def accept(listener: socket.socket) -> None:
    kept: deque[socket.socket] = deque()
    while not over.is_set():
        kept.append(listener.accept()[0])
        if len(kept) > _KEPT:
            with kept.popleft() as oldest:
                accepted.lived += 1
                if oldest.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
                    accepted.wrong.append("keepalive")
                if not oldest.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR):
                    accepted.wrong.append("SO_REUSEADDR is off")


def connect(port: int, address: tuple[str, int]) -> socket.socket:
    """Connect from this port. Raises OSError."""
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        made.bind(("127.0.0.1", port))
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made


def live(slot: int, ports: tuple[int, int], address: tuple[str, int]) -> None:
    dice = random.Random(slot)
    for port in itertools.cycle(ports):
        if over.is_set():
            break
        seen, is_chosen = (chosen, True) if port == ports[0] else (bystanders, False)
        try:
            made = connect(port, address)
            os.dup2(made.fileno(), _FIRST_DESCRIPTOR + slot, inheritable=False)
            made.close()
            over.wait(dice.uniform(0, _LIVES_S[slot % len(_LIVES_S)]))
            held = socket.socket(fileno=_FIRST_DESCRIPTOR + slot)
            try:
                seen.look(held, may_be_chosen=is_chosen)
                held.send(b"x")
            finally:
                held.detach()
        except OSError as error:
            if error.errno not in _TAKEN:
                seen.wrong.append(errno.errorcode[error.errno or 0])


def main() -> None:
    slots, *firsts = map(int, sys.argv[1:])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threads = [threading.Thread(target=accept, args=(listener,), daemon=True)]
    for slot in range(slots):
        ports = firsts[0] + slot, firsts[1] + slot
        threads.append(threading.Thread(target=live, args=(slot, ports, listener.getsockname())))
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads[1:]:
        thread.join()
    print(json.dumps({"chosen": asdict(chosen), "bystanders": asdict(bystanders), "accepted": asdict(accepted)}))


if __name__ == "__main__":
    main()
