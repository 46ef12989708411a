"""Numbers, names, addresses and times as text for people."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache

from tracer.model.durations import duration as duration
from tracer.model.events import Event
from tracer.model.sockets import Socket


def size(count: int) -> str:
    """Bytes in at most five characters: `527`, `99999`, `717K`, `12M`."""
    if count < 100_000:
        return str(count)
    for unit in "KMG":
        count //= 1024
        if count < 10_000:
            return f"{count}{unit}"
    return f"{count}G"


@lru_cache(maxsize=1024)
def endpoint(address: str | None, port: int | None) -> str:
    """`10.1.2.3:3306`, `[2001:db8::1]:443`; `*` for an unknown part."""
    host = safe(address) if address is not None else "*"
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{'*' if port is None else port}"


_NAMES_OF_THREADS = frozenset({"", "MainThread"})
"""Names of threads, not of processes. Node.js 24 and later names its first thread MainThread."""


def process(of: Event | Socket) -> str:
    """`php[8506]`; without a number, the name alone; `-` for an unknown process.

    The process's own name (`gunicorn`) is preferred to that of its program (`python3.11`), unless it is a thread's.
    """
    comm = of.comm or ""
    name = (of.exe or comm) if comm in _NAMES_OF_THREADS else comm
    if of.pid is None:
        return safe(name) or "-"
    return f"{safe(name) or '?'}[{of.pid}]"


_MAX_ID = 12
"""Characters of a container's id, as `docker ps` shows them."""
_ID = re.compile("[0-9a-f]{64}")


def short_id(container: str) -> str:
    """The first characters of a container's id. The name of an LXC container stays as it is."""
    return container[:_MAX_ID] if _ID.fullmatch(container) else container


def place(of: Event | Socket) -> str:
    """Where the process runs: `pod/web-7d9f`, `container/db`, `worker.service`.

    Empty where that is not known, or says no more than the name of the process: nginx.service of nginx.
    """
    if of.pod is not None:
        return f"pod/{safe(of.pod)}"
    if of.container is not None:
        return f"container/{safe(of.container_name or short_id(of.container))}"
    unit = of.unit or ""
    return safe(unit) if unit.endswith(".service") and not _says_no_more(unit, of) else ""


def _says_no_more(unit: str, of: Event | Socket) -> bool:
    """Whether the unit is the process's own name, or its beginning: ssh.service of sshd, user@1000.service."""
    name = unit.removesuffix(".service")
    if name.startswith("user@") and "/" not in name:
        return True
    # The kernel truncates a name to 15 bytes.
    own = [each for each in (of.comm, of.exe) if each]
    return any(each.startswith(name) or (len(each) == 15 and name.startswith(each)) for each in own)


def owner(of: Event | Socket) -> str:
    """Where the process runs, if that is worth a word, and `processes`: `pod/web-7d9f php[8506] +2`."""
    where = place(of)
    return f"{where} {processes(of)}" if where else processes(of)


def processes(of: Event | Socket) -> str:
    """The process, and the number of others that share the socket: `php[8506] +2`."""
    others = len(of.pids or ()) - 1
    return f"{process(of)} +{others}" if others > 0 else process(of)


def common_place(of: Iterable[Event | Socket]) -> str:
    """The `place` of all of them, with a blank behind it; empty where there are several."""
    places = {place(each) for each in of}
    where = places.pop() if len(places) == 1 else ""
    return f"{where} " if where else ""


def program(of: Event | Socket) -> str:
    """The name in `process`, without a number."""
    name = process(of)
    return name.rpartition("[")[0] or name


def owner_of_all(sockets: Sequence[Socket]) -> str:
    """Of sockets of one program: `gunicorn[23949]`, or `gunicorn (12 processes)`, after their common `place`."""
    where, pids = common_place(sockets), {socket.pid for socket in sockets if socket.pid is not None}
    if len(pids) <= 1:
        return where + process(sockets[0])
    return f"{where}{program(sockets[0])} ({len(pids):,} processes)"


# Invisible, but printable for str.isprintable(): some of Unicode's Default_Ignorable_Code_Point (joiners, Hangul
# fillers, variation selectors), and the Braille blank.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def safe(text: str) -> str:
    """The text with control and invisible characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode("ascii") if _is_invisible(c) else c for c in text)


def _is_invisible(character: str) -> bool:
    return not character.isprintable() or _INVISIBLE.match(character) is not None


_PLAIN_NAME = re.compile(r"[\w.:@+/-]*", re.ASCII)


def quoted(name: str) -> str:
    """The name, in quotation marks if it has characters that words of a sentence have not."""
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '\\"') + '"'


_PLAIN = {"→": "->", "×": "x", "…": "...", "–": "-"}


def in_plain(text: str) -> str:
    """The text with our arrows and dashes in ASCII."""
    for fine, plain in _PLAIN.items():
        text = text.replace(fine, plain)
    return text


def _encode_plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = in_plain(error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


PLAIN = "tcpwatch.plain"
"""An error handler for streams, for characters that their encoding lacks."""
codecs.register_error(PLAIN, _encode_plain)


def plural(count: int, noun: str) -> str:
    """`1 event`, `1,234 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@lru_cache(maxsize=4)
def _local_second(second: int) -> tuple[str, str]:
    broken_down = time.gmtime(second)
    return time.strftime("%Y-%m-%d", broken_down), time.strftime("%H:%M:%S", broken_down)


def local_time(time_ns: int, utc_offset_s: int) -> tuple[str, str]:
    """Date and time of day with milliseconds."""
    second, rest = divmod(time_ns, 1_000_000_000)
    date, clock = _local_second(second + utc_offset_s)
    return date, f"{clock}.{rest // 1_000_000:03d}"


def clock(time_ns: int, utc_offset_s: int) -> str:
    """Time of day with milliseconds."""
    return local_time(time_ns, utc_offset_s)[1]
