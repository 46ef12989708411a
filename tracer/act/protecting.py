"""Protect connections that are open: set keepalive and user timeout on sockets of other processes."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

from tracer.act.protection import ends_on_one_probe, is_armed_late, protected
from tracer.act.selection import without_process
from tracer.kernel import keepalive
from tracer.kernel.descriptors import Descriptors, Gone, Unreachable
from tracer.kernel.sock_diag import named_of
from tracer.model.durations import duration
from tracer.model.protection import Outcome, Protection, Result, Settings
from tracer.model.sockets import Socket

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def protect(sockets: Iterable[Socket], wanted: Protection, *, dry_run: bool = False) -> Iterator[Outcome]:
    """Protect each of these connections; one that has been closed since has no outcome.

    Raises OSError only if this process is out of descriptors or memory.
    """
    descriptors = Descriptors(rests=True)
    for socket in sockets:
        outcome = _protect(descriptors, socket, wanted, dry_run=dry_run)
        if outcome is not None:
            yield outcome


def _protect(descriptors: Descriptors, socket: Socket, wanted: Protection, *, dry_run: bool) -> Outcome | None:
    """None if it has been closed."""
    named, reason = named_of(socket), without_process(socket)
    if named is None or reason is not None:
        return Outcome(socket, Result.UNREACHABLE, detail=reason or "its ends are unknown")
    if socket.mptcp:
        return Outcome(socket, Result.UNREACHABLE, detail="a subflow of Multipath TCP")
    try:
        with descriptors.duplicate(socket.pids or (), named) as duplicate:
            held = duplicate.socket
            before = keepalive.read(held)
            after = protected(before, wanted)
            rearm = is_armed_late(socket, before)
            detail = ", ".join(_details(before, after, rearm=rearm))
            if after == before and not rearm:
                return Outcome(socket, Result.UNCHANGED, before, before)
            if dry_run:
                return Outcome(socket, Result.WOULD_CHANGE, before, after, detail)
            try:
                keepalive.write(held, before, after, rearm=rearm)
            except OSError as error:
                if keepalive.read(held) == before:
                    raise
                detail = f"the kernel refuses the rest: {error.strerror}"
            return Outcome(socket, Result.CHANGED, before, keepalive.read(held), detail)
    except Gone:
        return None
    except Unreachable as error:
        return Outcome(socket, Result.UNREACHABLE, detail=str(error))
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return Outcome(socket, Result.UNREACHABLE, detail=f"the kernel refuses: {error.strerror}")


def _details(before: Settings, after: Settings, *, rearm: bool) -> Iterator[str]:
    """What the settings do not show by themselves."""
    if rearm:
        yield "its timer was armed before a sysctl was lowered"
    if after.user_timeout_ms == before.user_timeout_ms and ends_on_one_probe(after):
        yield f"one lost probe ends it, because of its own user timeout of {duration(after.user_timeout_ms)}"
