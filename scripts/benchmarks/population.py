"""Many processes with a few TCP sockets each: `python population.py PROCESSES SOCKETS NAMESPACES`.

The first NAMESPACES processes have a network namespace of their own, with their sockets in it. SOCKETS is odd: a
listener, and both ends of connections to it. Prints one JSON object when all are there, and keeps them until stdin
ends. Run it as process 1 of a PID namespace (`unshare --pid --fork --kill-child`): all of them end with it.

A process is made by clone(2) with the memory of this one and executes nothing but pause(3), so that it costs the
kernel its structures only. 20,000 of them take five seconds and no memory of their own.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys

_CLONE_VM, _CLONE_NEWNET = 0x100, 0x40000000  # include/uapi/linux/sched.h
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # include/uapi/linux/sockios.h, if.h
_INTERFACE = struct.Struct("16sH22x")  # struct ifreq
_STACK = 4096
_PORT = 7000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Make them, say so, wait."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    processes, sockets, namespaces = map(int, sys.argv[1:])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stacks = mmap.mmap(-1, processes * _STACK)
    lowest = ctypes.addressof(ctypes.c_char.from_buffer(stacks))
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    for number in range(processes):
        if number < namespaces:
            _checked(_libc.unshare(_CLONE_NEWNET))
            _set_loopback_up()
        elif number == namespaces:
            _checked(_libc.setns(own, _CLONE_NEWNET))
        held = _sockets(number, sockets)
        _begin(lowest + (number + 1) * _STACK)
        for each in held:
            each.close()
    print(json.dumps({"processes": processes, "sockets": processes * sockets}), flush=True)
    sys.stdin.read()


def _sockets(number: int, count: int) -> list[socket.socket]:
    """A listener with an address of its own, and connections to it."""
    if not count:
        return []
    number += 256
    listener = socket.create_server((f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}", _PORT))
    held = [listener]
    while len(held) < count:
        held += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
    return held


def _begin(stack: int) -> None:
    """A process with copies of our open files that waits for a signal."""
    pause = ctypes.cast(_libc.pause, ctypes.c_void_p)
    _checked(_libc.clone(pause, ctypes.c_void_p(stack), _CLONE_VM | signal.SIGCHLD, None))


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE.pack(b"lo", 0))
        name, flags = _INTERFACE.unpack(answer)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(name, flags | _IFF_UP))


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
