"""The commands of tcpwatch, each imported when it is asked for, so that live tracing starts without the others."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

_MODULES = {
    "record": "live",
    "replay": "replay",
    "report": "replay",
    "sockets": "sockets",
    "probe": "probe",
    "protect": "protect",
    "end": "end",
    "check": "check",
    "demo": "demo",
    "completion": "completion",
    "help": "help",
}
"""The module of tracer.cli that each command is in."""


class Commands(MutableMapping[str, click.Command]):
    """The commands by name, as a click.Group wants them."""

    def __init__(self) -> None:
        self._imported: dict[str, click.Command | None] = dict.fromkeys(_MODULES)

    def __getitem__(self, name: str) -> click.Command:
        command = self._imported[name]
        if command is None:
            members = vars(import_module(f"tracer.cli.{_MODULES[name]}")).values()
            command = next(each for each in members if isinstance(each, click.Command) and each.name == name)
            self._imported[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._imported[name] = command

    def __delitem__(self, name: str) -> None:
        del self._imported[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._imported)

    def __len__(self) -> int:
        return len(self._imported)

    def __contains__(self, name: object) -> bool:
        return name in self._imported
