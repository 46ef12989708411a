"""Filter expressions of tcpdump and ss as FILTERS of tcpwatch: `tcp port 3306 and host 10.1.2.3`, `dport = :3306`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

_IGNORED = {"tcp", "all", "both", "established", "inet-any"}
_FAMILIES = {"ip": "-4", "inet": "-4", "ip4": "-4", "ip6": "-6", "inet6": "-6"}
_AND, _OR = {"and", "&&"}, {"or", "||"}
_EQUALS = {"=", "==", "eq"}
_ENDS = {"src", "dst"}
_PORTS_OF_SS = {"sport": "--lport", "dport": "--rport", "src": "--lport", "dst": "--rport"}
_OPTIONS = {"host": "--host", "net": "--host", "port": "--port", "portrange": "--port"}
_PORTS = re.compile(r"\d+(-\d+)?", re.ASCII)
_WITH_PORT = re.compile(r"(?P<host>[\d.]+|\[[0-9a-fA-F:.]+\]|\*|):(?P<port>\d+)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
WORDS = frozenset({*_IGNORED, *_FAMILIES, *_ENDS, *_OPTIONS, "sport", "dport"}) - {"all", "both"}
"""Words with which an expression begins."""


class NotTranslatable(Exception):
    """FILTERS cannot say this."""


def filters_of(words: Sequence[str]) -> list[str]:
    """The FILTERS that an expression asks for. Raises NotTranslatable."""
    return _Expression(" ".join(words)).filters()


def is_address(text: str) -> bool:
    """Whether the text is an address or a CIDR block."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


class _Expression:
    """One pass over the words, from left to right."""

    def __init__(self, text: str) -> None:
        self._words = re.sub(r"([()])", " ", text.replace("\\", " ")).split()
        self._flags: dict[str, None] = {}
        self._values: dict[str, list[str]] = {}
        self._joined_by_or = False
        self._is_either_end = False  # local or remote port

    def filters(self) -> list[str]:
        """Options and values."""
        while self._words:
            self._take()
        self._merge_ends()
        return [*self._flags, *(word for name, found in self._values.items() for word in (name, ",".join(found)))]

    def _take(self) -> None:
        word = self._words.pop(0)
        lowered = word.lower()
        if lowered in _AND:
            self._joined_by_or = False
        elif lowered in _OR:
            self._joined_by_or = True
        elif lowered in _FAMILIES:
            self._flags[_FAMILIES[lowered]] = None
        elif lowered == "state":  # of ss: there is no filter of states
            self._words = self._words[1:]
        elif lowered in _OPTIONS:
            self._add(_OPTIONS[lowered], self._value())
        elif lowered in _ENDS:
            self._take_end(lowered)
        elif lowered in ("sport", "dport"):
            self._add(_PORTS_OF_SS[lowered], self._value().lstrip(":"))
        elif lowered not in _IGNORED:
            self._take_ends_of(word, "")

    def _take_end(self, end: str) -> None:
        """What follows src or dst. A packet goes either way, so that tcpdump's words mean either end."""
        following = self._words[0].lower() if self._words else ""
        if following in _OPTIONS:
            return
        if following in _OR | _AND and len(self._words) > 1 and self._words[1].lower() in _ENDS:
            del self._words[:2]
            return
        self._take_ends_of(self._value(), end)

    def _take_ends_of(self, word: str, end: str) -> None:
        """An address, `ADDRESS:PORT`, or `:PORT`."""
        match = _WITH_PORT.fullmatch(word)
        if match is not None:
            if match["host"] not in ("", "*"):
                self._add("--host", match["host"].strip("[]"))
                self._joined_by_or = False
            self._add(_PORTS_OF_SS.get(end, "--port"), match["port"])
        elif is_address(word) or (end and _NAME.fullmatch(word)):
            self._add("--host", word)
            if self._words and _PORTS.fullmatch(self._words[0]):  # of nc and telnet: HOST PORT
                self._add(_PORTS_OF_SS.get(end, "--port"), self._words.pop(0))
        else:
            raise NotTranslatable

    def _value(self) -> str:
        while self._words and self._words[0].lower() in _EQUALS:
            self._words.pop(0)
        if not self._words or self._words[0].lower() in _AND | _OR | WORDS:
            raise NotTranslatable
        return self._words.pop(0)

    def _add(self, option: str, value: str) -> None:
        is_valid = _NAME.fullmatch(value) or (is_address(value) if option == "--host" else _PORTS.fullmatch(value))
        if not is_valid or (option != "--host" and value[0].isdigit() and not _PORTS.fullmatch(value)):
            raise NotTranslatable
        others = self._values.keys() - {option}
        if self._joined_by_or and others - {"--lport", "--rport"}:
            raise NotTranslatable
        if not self._joined_by_or and option in self._values:
            raise NotTranslatable
        if self._joined_by_or and others:
            self._is_either_end = True
        self._values.setdefault(option, []).append(value)
        self._joined_by_or = False

    def _merge_ends(self) -> None:
        """`dport = :3306 or sport = :3306` is a port of either end."""
        if self._is_either_end:
            local, remote = self._values.pop("--lport", []), self._values.pop("--rport", [])
            if set(local) != set(remote) or self._values:
                raise NotTranslatable
            self._values["--port"] = list(dict.fromkeys(remote))
