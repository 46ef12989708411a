"""The shell examples of the documents: found, sorted by how they are tried, and compared with the output beneath.

In Markdown an example is a command in a block that begins with ```sh. A block that begins with ```text right behind
it is what its last command prints: numbers aside, each part between two lines with only `…` is printed, in that
order. In the manual page the examples are the lines of the section EXAMPLES.
"""

from __future__ import annotations

import re
import subprocess
from enum import Enum
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md")),
    ROOT / "docs" / "tcpwatch.8",
)
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_EXAMPLES = re.compile(r"^\.SH EXAMPLES\n\.nf\n(.*?)^\.fi$", re.MULTILINE | re.DOTALL)


class Way(Enum):
    """How an example is tried."""

    OFFLINE = "run, beside recordings"
    LIVE = "run as root, in network namespaces"
    NOT_RUN = "parsed"


class Example(NamedTuple):
    """A command of a document, and what the document shows of its output: empty for nothing."""

    page: str
    command: str
    output: str = ""


NOT_RUN = {
    r"git clone URL-OF-THIS-REPOSITORY .*": "whoever publishes this puts the URL there",
    r"sudo scripts/(install|bench|vm)\b.*": "they change the host or take minutes; tests of their own run them",
    r"sudo scripts/test\b.*": "it runs the tests",
    r"sudo scripts/packaging/build-(deb|rpm)": "they write to the tree; test_packages.py and test_rpm.py run them",
    r"sudo (apt-get install \./build/|podman (build|run) ).*": "they change the host; see test_packages.py",
    r"kubectl .*": "it needs a cluster; test_packages.py runs the pod",
    r"sudo apt-get install [\w -]*prometheus.*": "it installs packages; the tests need them, too",
    r"(sudo scripts/tcpwatch .*--metrics-listen|prometheus --config|curl -s http:.*/alerts).*": "see test_fleet.py",
    r"sudo systemctl .*": "it starts a service of the host; test_service.py checks the unit",
    r"source <\(tcpwatch completion (bash|zsh)\)": "it changes the shell; test_completion.py does so",
    r"tcpwatch completion fish \| source": "it changes the shell; test_completion.py does so",
}
"""What cannot be run here, and why. It is parsed."""
RUN = {
    Way.OFFLINE: r"(scripts/)?tcpwatch (report|replay|help)\b.*|zcat .*",
    Way.LIVE: r"(ssh \S+ )?sudo (\w+=\S+ )*(setpriv \S+ )?(scripts/)?tcpwatch\b.*"
    r"|sudo (nsenter|ss|lsns|cat|ls|conntrack|sysctl net)\b.*|ls .*",
}


def way_of(command: str) -> tuple[Way, str] | None:
    """How it is tried, and the reason if it is not run. None if nobody knows."""
    text = " ".join(command.split())
    for pattern, reason in NOT_RUN.items():
        if re.fullmatch(pattern, text):
            return Way.NOT_RUN, reason
    found = next((way for way, pattern in RUN.items() if re.fullmatch(pattern, text)), None)
    return (found, "") if found else None


@cache
def examples() -> tuple[Example, ...]:
    """All of them, each once for a page."""
    return tuple(dict.fromkeys(example for page in PAGES for example in _of_page(page)))


def of_way(way: Way) -> list[Example]:
    """Those that are tried in that way."""
    return [each for each in examples() if (found := way_of(each.command)) and found[0] is way]


def name_of(example: Example) -> str:
    """The name of its test."""
    return f"{example.page}: {' '.join(example.command.split())[:70]}"


def _of_page(path: Path) -> list[Example]:
    page, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    if path.suffix == ".8":
        found = _EXAMPLES.search(text)
        assert found, "no section EXAMPLES"
        return [Example(page, line) for line in commands_of(found[1].replace("\\-", "-").replace("\\e", "\\"))]
    made: list[Example] = []
    end = 0
    for block in _BLOCK.finditer(text):
        kind, body = block[2], "".join(line.removeprefix(block[1]) for line in block[3].splitlines(keepends=True))
        if kind == "sh":
            made += [Example(page, command) for command in commands_of(body)]
        elif kind == "text" and made and end and not text[end : block.start()].strip():
            made[-1] = made[-1]._replace(output=body)
        end = block.end() if kind == "sh" else 0
    return made


def commands_of(block: str) -> list[str]:
    """The commands of a block of shell: as few lines as bash takes for a whole, without trailing comments."""
    commands: list[str] = []
    lines: list[str] = []
    for line in block.splitlines():
        if not lines and (not line.strip() or line.startswith("#")):
            continue
        lines.append(line)
        if not line.endswith("\\") and is_shell("\n".join(lines)):
            commands.append(re.sub(r"\s+# [^'\"]*$", "", "\n".join(lines)))
            lines = []
    assert not lines, f"incomplete: {lines}"
    return commands


def is_shell(command: str) -> bool:
    """Whether bash accepts its syntax."""
    return subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0


def shape(text: str) -> str:
    """Text without what differs from run to run: numbers with their units, and where lines are broken."""
    return " ".join(re.sub(r"(?<![a-z])-?\d[\w.:%]*", "N", text).split())


def assert_printed(example: Example, printed: str) -> None:
    """Fail if the document shows output of another shape."""
    rest = shape(printed)
    for part in filter(str.strip, re.split(r"^ *…$", example.output, flags=re.MULTILINE)):
        _, found, rest = rest.partition(shape(part))
        assert found, f"{name_of(example)}\nnot printed:\n{part}\nbut\n{printed}"
