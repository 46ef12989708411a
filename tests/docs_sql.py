"""The SQL blocks of docs/fleet.md, run by DuckDB on the recordings below a directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb

PAGE = Path(__file__).resolve().parent.parent / "docs/fleet.md"
DIRECTORY = "/srv/tcpwatch"
"""What the page calls the directory with a directory for each host."""
Rows = list[dict[str, Any]]


def blocks() -> list[str]:
    """The blocks in the order of the page."""
    return re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def block_with(words: str) -> str:
    """The only block with these words."""
    (block,) = [each for each in blocks() if words in each]
    return block


class Database:
    """A DuckDB in which every block of the page has been run, in order."""

    def __init__(self, directory: Path) -> None:
        self._connection = duckdb.connect()
        self._directory = directory
        for block in blocks():
            self.run(block)

    def run(self, block: str) -> Rows:
        """Run the statements of a block. Returns the rows of the last one."""
        done = self._connection.execute(block.replace(DIRECTORY, str(self._directory)))
        names = [column[0] for column in done.description or []]
        return [dict(zip(names, row)) for row in done.fetchall()]

    def answer(self, words: str) -> Rows:
        """The rows of the only block with these words."""
        return self.run(block_with(words))
