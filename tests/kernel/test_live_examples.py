"""The documents' live examples, typed as they are written, beside connections that hang.

tcpwatch is that of this tree, sudo and ssh run what follows them, and docker knows one container: the lab's client.
What would run until ^C ends after two seconds, and nothing outside the lab is looked at or ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from docs_examples import Example, Way, assert_printed, name_of, of_way
from watching import PATIENCE_S, ROOT

from tracer.analysis.stuck import stuck
from tracer.kernel.sockets import read_sockets
from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.filters import Filter

_TCPWATCH = """
limits=()
case ${1-} in
replay | report | completion | help | check | demo) ;;
*)
    [[ " $* " == *" --netns "* ]] || limits+=(--netns %NETNS%)
    case ${1-} in
    sockets | probe) ;;
    protect) [[ " $* " != *" --follow "* ]] || limits+=(--duration 2) ;;
    end) [[ " $* " == *" --dry-run "* ]] || limits+=(--yes) ;;
    *) limits+=(--duration 2) ;;
    esac ;;
esac
exec %PYTHON% -m tracer "$@" "${limits[@]}"
"""
_TOOLS = {
    "tcpwatch": _TCPWATCH,
    "sudo": 'exec env "$@"',
    "ssh": 'exec "${@:2}"',
    "docker": "echo %PID%",
    "logger": "exec cat",
    "conntrack": """
[[ "$*" != *-E* ]] || limit=(timeout --signal INT 2)
"${limit[@]}" %CONNTRACK% "$@" || [ $? = 124 ]
""",
}


Results = dict[str, Future[subprocess.CompletedProcess[str]]]


class Desk:
    """Where the examples are typed, and what hangs there."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        tools = directory / "scripts"
        tools.mkdir()
        found = subprocess.run(["bash", "-c", "command -v conntrack"], capture_output=True, text=True, check=True)
        values = {
            "NETNS": lab.client.netns, "PYTHON": sys.executable, "PID": lab.client.pid,
            "CONNTRACK": found.stdout.strip(),
        }  # fmt: skip
        for name, body in _TOOLS.items():
            text = re.sub("%([A-Z]+)%", lambda value: str(values[value[1]]), body)
            (tools / name).write_text(f"#!/bin/bash\n{text}\n")
            (tools / name).chmod(0o755)
        self._path = os.pathsep.join([str(tools), "/usr/local/sbin", "/usr/sbin", "/sbin", os.environ["PATH"]])

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type it. A command about sessions is typed on the firewall."""
        command = command.replace("4711", str(self.lab.client.pid))
        argv = ["timeout", "--signal", "INT", str(PATIENCE_S), "bash", "-c", command]
        on_firewall = "conntrack" in command
        place = Path(tempfile.mkdtemp(dir=self.directory))  # two examples may write the same file
        (place / "scripts").symlink_to(self.directory / "scripts")
        return subprocess.run(
            self.lab.firewall.command(argv) if on_firewall else argv,
            cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * PATIENCE_S,
            env={**os.environ, "PATH": self._path, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        )  # fmt: skip


def hanging(namespace: Namespace) -> int:
    """How many connections hang there."""
    found = read_sockets(Filter(netns=frozenset({namespace.netns})), lambda _: None)
    return sum(stuck(each) is not None for each in found)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """With two connections that hang, and one that is well."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(ttl_s=600, retries2=15))
        stack.enter_context(Server(lab.server, SERVER, 3306))
        made = Desk(lab, tmp_path_factory.mktemp("desk"))
        add_hanging(stack, lab, 2)
        healthy = stack.enter_context(embedded_client(lab.client, SERVER, 3306))
        assert healthy.ask("query")["ok"]
        yield made


def add_hanging(stack: contextlib.ExitStack, lab: Lab, count: int) -> list[Client]:
    """Connections that the firewall forgets, and that then write."""
    before = hanging(lab.client)
    clients = [stack.enter_context(embedded_client(lab.client, SERVER, 3306)) for _ in range(count)]
    for client in clients:
        assert client.ask("query")["ok"]
    lab.forget_sessions()
    for client in clients:
        client.send("query")
    wait_until(lambda: hanging(lab.client) == before + count, PATIENCE_S, "the third retransmission")
    return clients


LIVE = of_way(Way.LIVE)
ENDING = [each for each in LIVE if "tcpwatch end" in each.command and "--dry-run" not in each.command]
LOOKING = [each for each in LIVE if each not in ENDING]


@pytest.fixture(scope="module")
def looking(desk: Desk) -> Iterator[Results]:
    """All at once, a few at a time: most of each is waiting."""
    with ThreadPoolExecutor(max_workers=6) as pool:
        commands = sorted({each.command for each in LOOKING}, key=lambda each: "demo" not in each)
        yield {each: pool.submit(desk.type, each) for each in commands}


def result_of(
    example: Example, looking: Results, desk: Desk, request: pytest.FixtureRequest
) -> subprocess.CompletedProcess[str]:
    """For a test that is tried again it is typed again: tcpwatch may have missed an event (see blindness.py)."""
    again = getattr(request.node, "execution_count", 1) > 1
    return desk.type(example.command) if again else looking[example.command].result()


@pytest.mark.parametrize("example", LOOKING, ids=name_of)
def test_an_example_that_looks(
    looking: Results, desk: Desk, example: Example, request: pytest.FixtureRequest
) -> None:
    done = result_of(example, looking, desk, request)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr, "it prints nothing"
    if "demo" not in example.command or "--fix" not in example.command:
        assert_printed(example, done.stdout)


@pytest.mark.parametrize("example", ENDING, ids=name_of)
def test_an_example_that_ends_something(looking: Results, desk: Desk, example: Example) -> None:
    for each in looking.values():
        each.result()
    with contextlib.ExitStack() as stack:
        (client,) = add_hanging(stack, desk.lab, 1)
        done = desk.type(example.command)
        assert done.returncode == 0, done.stderr
        assert client.answer(PATIENCE_S)["error"] == "ECONNABORTED"


def test_the_block_of_the_readme_is_that_of_the_demo(
    looking: Results, desk: Desk, request: pytest.FixtureRequest
) -> None:
    block = (ROOT / "README.md").read_text().partition("```text\n")[2].partition("```")[0]
    (demo,) = [each for each in LOOKING if each.page == "README.md" and each.command.endswith(" demo")]
    assert "STALL idle-drop" in block
    assert_printed(demo._replace(output=block), result_of(demo, looking, desk, request).stdout)
