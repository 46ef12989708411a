"""Words that the project's prose does without, because a reader has to solve a riddle before learning a fact.

What counts as prose: Markdown and the man page outside of code, comments and docstrings, and strings with spaces,
which are mostly messages.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RIDDLES = {
    r"told": "reported, shown; or name what is known",
    r"said": "reported, printed",
    r"heard": "received from",
    r"whose": "with, of the, that has",
    r"so many": "that many, or the number",
    r"(?<!there )(?:is|are|was) no(?! longer| more)": "is not a",
    r"of which": "two sentences",
    r"packed": "compressed",
    r"cut off": "truncated",
    r"speaks? for": "is the likely cause",
    r"by how much": "the difference",
}
PATTERN = re.compile(rf"\b(?:{'|'.join(RIDDLES)})\b", re.IGNORECASE)
CODE_BLOCK = re.compile(r"^( {4}[^\n]*|```.*?^```)$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`]*`")
COMMENT_IN_C = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
COMMENT_IN_SHELL = re.compile(r"(?:^|\s)#[^\n]*")


def written() -> Iterator[Path]:
    """The files that people read, tests aside: those name what a tool of the field would print."""
    yield from sorted(ROOT.glob("*.md"))
    for room in ("docs", "tracer", "bpf", "scripts"):
        for path in sorted((ROOT / room).rglob("*")):
            is_text = path.suffix not in (".png", ".pyc") and path.name != "LICENSE"
            if path.is_file() and is_text and "__pycache__" not in path.parts:
                yield path


def prose_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return "\n".join(_of_python(text))
    if path.suffix in (".c", ".h"):
        return "\n".join(match[0] for match in COMMENT_IN_C.finditer(text))
    if path.suffix == ".md":
        return CODE_SPAN.sub("", CODE_BLOCK.sub("", text))
    if path.suffix in (".8", ".service"):
        return text
    return "\n".join(match[0] for match in COMMENT_IN_SHELL.finditer(text))


def _of_python(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield CODE_SPAN.sub("", node.value)


@pytest.mark.parametrize("path", written(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_riddles(path: Path) -> None:
    prose = " ".join(prose_of(path).split())
    found = [prose[max(0, match.start() - 50) : match.end() + 30] for match in PATTERN.finditer(prose)]
    assert not found, f"{path.relative_to(ROOT)}: " + " | ".join(found)
