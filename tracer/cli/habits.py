"""The command line of tcpwatch for one that was typed as for tcpdump, ss or strace, or was mistyped."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Sequence

import click

from tracer.cli.expressions import WORDS, NotTranslatable, filters_of, is_address
from tracer.model.secrets import without_secrets

_WITHOUT_ROOT = frozenset({"replay", "report", "help", "completion"})
_SYNONYMS = {
    **dict.fromkeys(("list", "ls", "ss", "netstat", "connections", "socket", "stat"), "sockets"),
    **dict.fromkeys(("capture", "dump", "write", "save", "rec"), "record"),
    **dict.fromkeys(("read", "play", "show", "view", "cat", "print", "open"), "replay"),
    **dict.fromkeys(("analyze", "analyse", "summary", "diagnose", "stats"), "report"),
    **dict.fromkeys(("doctor", "test", "status", "info"), "check"),
    **dict.fromkeys(("start", "trace", "run", "live", "watch", "monitor", "tcpdump", "strace"), ""),
    **dict.fromkeys(("completions", "complete"), "completion"),
    **dict.fromkeys(("kill", "tcpkill", "close", "drop", "destroy", "abort", "release", "free"), "end"),
    **dict.fromkeys(("ping", "test-path", "tcping", "alive", "dead"), "probe"),
    **dict.fromkeys(("keepalive", "keep-alive", "keep", "libkeepalive"), "protect"),
    "version": "--version",
}
"""Other words for commands."""
_UNITS = frozenset({"d", "h", "m", "min", "s", "sec", "ms", "days", "hours", "minutes", "seconds"})
_RECORDINGS = (".tw", ".gz", ".zst")
_FLAGS = frozenset("AbdDfHIJKlLNOqRSTtuUvxXymEsZ0123456789")
"""Options of tcpdump, ss and strace that have no value and nothing to stand for them here."""
_WITH_VALUE = frozenset("sBFMyz")
"""Options of tcpdump and strace with a value that has nothing to stand for it here."""
_FLAGS_OF_SS = frozenset("anoipmeKlrsbZzN")
_OF_ROTATION = {"G": ("--rotate-every", "{}s"), "C": ("--rotate-size", "{}M"), "W": ("--keep", "{}")}
"""Options of tcpdump, and those of `tcpwatch record`."""


def suggestion(group: click.Group, arguments: Sequence[str]) -> str | None:
    """The line to type instead. None if the arguments cannot be understood."""
    words = without_secrets(arguments)
    # Options before the name of their command belong behind it.
    named = next((place for place, word in enumerate(words) if word in group.commands), 0)
    for line in ([words[named], *words[:named], *words[named + 1 :]], words) if named else [words]:
        try:
            return _Line(group, line).text()
        except NotTranslatable:
            pass
    return None


def nearest(word: str, words: Sequence[str]) -> str | None:
    """The most similar of the words, if it is as similar as after a slip of the finger."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.7)
    return found[0] if found else None


def needs_root(command: str) -> bool:
    """Whether a command, or live tracing (""), needs root."""
    return command not in _WITHOUT_ROOT and not command.startswith("--")


class _Line:
    """A command line that is read from left to right and put together again."""

    def __init__(self, group: click.Group, arguments: Sequence[str]) -> None:
        self._group = group
        self._rest = list(arguments)
        self._command = ""
        self._is_chosen = False
        self._options: list[str] = []  # ours, kept
        self._files: list[str] = []
        self._words: list[str] = []  # an expression
        self._count = ""
        self._follows_forks = False
        self._rotates = False
        while self._rest:
            self._take(self._rest.pop(0))

    def text(self) -> str:
        """The new line."""
        filters = filters_of(self._words)
        if self._files and self._command == "":
            self._command = "replay"
        if self._rotates and self._command == "":
            self._command = "record"
            self._options = ["-o" if each in ("-w", "--write") else each for each in self._options]
        if self._files and self._command == "record":
            self._options = ["-o", self._files.pop(), *self._options]
        if self._command == "record" and not {"-o", "--output"} & set(self._options):
            self._options = ["-o", "now.tw", *self._options]
        if self._command == "protect" and "--idle" not in self._options:
            self._options += ["--idle", "4m"] if self._options or filters else ["--rport", "3306", "--idle", "4m"]
        if self._command in ("replay", "report") and not self._files:
            raise NotTranslatable
        known = self._group.commands.keys() | {"", "--version"}
        if self._command not in known or (self._files and self._command not in ("replay", "report")):
            raise NotTranslatable
        words = ["tcpwatch", *filter(None, [self._command]), *self._files, *self._options, *filters]
        sudo = "sudo " if needs_root(self._command) and os.geteuid() != 0 else ""
        head = f" | head -n {self._count}" if self._count and self._command not in ("record", "report") else ""
        return f"{sudo}{shlex.join(words)}{head}"

    def _take(self, word: str) -> None:
        if word == "--":
            self._words += self._rest
            self._rest.clear()
        elif word.startswith("--"):
            self._take_long(word)
        elif word.startswith("-") and len(word) > 1:
            self._take_short(word[1:])
        else:
            self._take_word(word)

    def _own(self) -> dict[str, click.Option]:
        command = self._group.commands.get(self._command, self._group)
        options = (each for each in command.params if isinstance(each, click.Option))
        return {name: each for each in options for name in (*each.opts, *each.secondary_opts)}

    def _take_long(self, word: str) -> None:
        name, equals, value = word.partition("=")
        own = self._own()
        if name not in own:
            similar = nearest(name.lower(), [known for known, option in own.items() if not option.hidden])
            if similar is None:
                raise NotTranslatable
            name = similar
        self._keep(own[name], name, [value] if equals else [])

    def _keep(self, option: click.Option, name: str, value: list[str]) -> None:
        """Keep an option of our own, and its value. value: empty if it is the next word."""
        if not option.is_flag and not value:
            value = [self._next()]
        if not option.hidden:
            self._options += [name, *value]

    def _next(self) -> str:
        if not self._rest:
            raise NotTranslatable
        return self._rest.pop(0)

    def _take_short(self, letters: str) -> None:
        while letters:
            letter, letters = letters[0], letters[1:]
            option = self._own().get(f"-{letter}")
            if self._command == "sockets" and letter in _FLAGS_OF_SS and not self._has_value(letter, letters):
                continue
            if option is not None and option.is_flag:
                self._keep(option, f"-{letter}", [])
                continue
            if letter == "y" and "--yes" in self._own():
                self._options.append("--yes")
                continue
            if letter in _FLAGS and not (letter in _WITH_VALUE and self._has_value(letter, letters)):
                self._follows_forks |= letter == "f"
                continue
            if letter == "c" and not self._has_value(letter, letters):
                continue
            value = letters or self._next()
            letters = ""
            if letter == "p" and self._follows_forks:
                self._options += ["--pid", value]
            elif option is not None:
                self._keep(option, f"-{letter}", [value])
            else:
                self._take_foreign(letter, value)

    def _has_value(self, letter: str, letters: str) -> bool:
        """Whether a number follows: ports after -p, a count after -c, a length after -s."""
        following = letters or (self._rest[0] if self._rest else "")
        return letter in "pcsB" and following.replace(",", "").replace("-", "").isdecimal()

    def _take_foreign(self, letter: str, value: str) -> None:
        if letter == "r":
            self._files.append(value)
        elif letter in "wo" and self._command in ("", "record"):
            self._command = "record"
            self._options = ["-o", value, *self._options]
        elif letter == "o" and self._command == "report" and value.endswith(".html"):
            self._options += ["--html", value]
        elif letter == "c":
            self._count = value
        elif letter == "P" and value.isdecimal():
            self._options += ["--pid", value]
        elif letter in _OF_ROTATION and value.isdecimal():
            option, form = _OF_ROTATION[letter]
            self._options += [option, form.format(value)]
            self._rotates = True
        elif letter not in _WITH_VALUE and letter != "i":
            raise NotTranslatable

    def _take_word(self, word: str) -> None:
        if not self._words and (joint := self._joint_to_value(word)) is not None:
            self._options[-1] += joint + word
        elif not self._is_chosen and not self._words and (command := self._command_of(word)) is not None:
            self._command, self._is_chosen = command, True
            self._follows_forks |= word == "strace"
        elif _is_recording(word):
            self._files.append(word)
        else:
            self._words.append(word)

    def _joint_to_value(self, word: str) -> str | None:
        """What joins a word to the value before it: the comma of `--port 3306 3307`, nothing in `--duration 10 m`."""
        if len(self._options) < 2 or not self._options[-1][-1:].isdecimal():
            return None
        option = self._own().get(self._options[-2])
        if option is None or option.is_flag or not (option.multiple or word in _UNITS):
            return None
        return "" if word in _UNITS and not option.multiple else "," if word.isdecimal() else None

    def _command_of(self, word: str) -> str | None:
        lowered = word.lower()
        if lowered in self._group.commands:
            return lowered
        if lowered in WORDS or is_address(word):
            return None
        return _SYNONYMS[lowered] if lowered in _SYNONYMS else nearest(lowered, list(self._group.commands))


def _is_recording(word: str) -> bool:
    is_path = "/" in word and not is_address(word)
    # Path.is_file() raises OSError for a word that is longer than a file name.
    return is_path or word.endswith(_RECORDINGS) or os.path.isfile(word)  # noqa: PTH113
