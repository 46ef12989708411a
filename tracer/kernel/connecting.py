"""Open a new connection to each of some services, and close it: is the host there, and the path to it?"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tracer.kernel.sockets import NotPermitted, enter, namespaces
from tracer.model.actions import Connected, Service

_IP_BIND_ADDRESS_NO_PORT = 24  # include/uapi/linux/in.h: choose the port in connect()
_MAX_PAUSE_S = 0.1
_IF_INET6 = Path("/proc/thread-self/net/if_inet6")


def connect_each(
    services: Mapping[Service, str], wait_s: float, is_stopped: Callable[[], bool] = lambda: False
) -> list[Connected]:
    """Connect to all of them at once, from their network namespaces, and close what opens.

    services: each with the local address of its connections, which the new one is bound to, so that it takes the same
    route. wait_s: seconds until a connection that is not open counts as failed with ETIMEDOUT. is_stopped: ends the
    wait.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:  # a thread that enters namespaces is of no other use
        return pool.submit(_connect_each, services, wait_s, is_stopped).result()


def _connect_each(services: Mapping[Service, str], wait_s: float, is_stopped: Callable[[], bool]) -> list[Connected]:
    done: list[Connected] = []
    opening: dict[int, tuple[Service, socket.socket, float]] = {}
    paths = namespaces()
    try:
        for netns, of_netns in _by_netns(services).items():
            if failure := _enter(netns, paths):
                done += [Connected(service, failure) for service in of_netns]
                continue
            for service in of_netns:
                began_s = time.monotonic()
                try:
                    connection = _begin(service, services[service])
                except OSError as error:
                    done.append(Connected(service, _name(error.errno)))
                else:
                    opening[connection.fileno()] = service, connection, began_s
        done += _wait(opening, wait_s, is_stopped)
    finally:
        for _, connection, _ in opening.values():
            connection.close()
    return done


def _by_netns(services: Iterable[Service]) -> dict[int, list[Service]]:
    found: dict[int, list[Service]] = {}
    for service in services:
        found.setdefault(service.netns, []).append(service)
    return found


def _enter(netns: int, paths: Mapping[int, list[str]]) -> str:
    """Why that failed, as the name of an error number; empty if it did not."""
    try:
        return "" if enter(netns, paths.get(netns, [])) else "ENOENT"
    except NotPermitted:
        return "EPERM"


def _begin(service: Service, laddr: str) -> socket.socket:
    """A socket that is connecting. Raises OSError."""
    is_ipv6 = ":" in service.address
    connection = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        scope = (0, _scope(laddr)) if is_ipv6 else ()
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((laddr, 0, *scope))
        result = connection.connect_ex((service.address, service.port, *scope))
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, os.strerror(result))
    except OSError:
        connection.close()
        raise
    return connection


def _scope(address: str) -> int:
    """The index of the device that has this link-local address in the namespace of the thread; 0 for others."""
    if not address.startswith("fe80:"):
        return 0
    wanted = socket.inet_pton(socket.AF_INET6, address).hex()
    with suppress(OSError):
        for line in _IF_INET6.read_text().splitlines():
            found, index, *_ = line.split()
            if found == wanted:
                return int(index, 16)
    return 0


def _wait(
    opening: dict[int, tuple[Service, socket.socket, float]], wait_s: float, is_stopped: Callable[[], bool]
) -> list[Connected]:
    done: list[Connected] = []
    poll = select.poll()
    for number in opening:
        poll.register(number, select.POLLOUT)
    until_s = time.monotonic() + wait_s
    waiting = set(opening)
    while waiting and not is_stopped() and (left_s := until_s - time.monotonic()) > 0:
        for number, _ in poll.poll(min(left_s, _MAX_PAUSE_S) * 1000):
            service, connection, began_s = opening[number]
            poll.unregister(number)
            waiting.discard(number)
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            took_ms = (time.monotonic() - began_s) * 1000
            done.append(Connected(service, _name(error)) if error else Connected(service, took_ms=took_ms))
            connection.close()
    return done + [Connected(opening[number][0], "ETIMEDOUT") for number in waiting]


def _name(number: int | None) -> str:
    return errno.errorcode.get(number or 0, str(number))
