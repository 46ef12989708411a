"""`tcpwatch probe` as a process, and what it works on."""

from __future__ import annotations

import json
from pathlib import Path

from acting import act
from watching import Json

from tracer.kernel.sockets import read_sockets
from tracer.lab.network import Lab
from tracer.model.filters import Filter
from tracer.model.sockets import Socket


def rows(*arguments: str | int) -> tuple[list[Json], int]:
    """The objects that `probe --json` prints, and its exit status."""
    done = act("probe", "--json", *arguments)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def result(lab: Lab, *arguments: str | int) -> str:
    """The result of the only connection of the client's namespace."""
    ((row,), status) = rows("--netns", lab.client.netns, *arguments)
    assert status == (0 if row["result"] == "alive" else 1)
    return f"{row['result']}: {row.get('detail', '')}"


def found_in(lab: Lab) -> list[Socket]:
    """The connections of the client's namespace."""
    return read_sockets(Filter(netns=frozenset([lab.client.netns])))


def open_files() -> set[str]:
    """The descriptors of this process."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}
