"""The tables of fields in docs/events.md, made from the declarations in tracer/model.

    python scripts/field_tables.py --write     from the top of the tree: rewrite the tables
    python scripts/field_tables.py             exit 1 if they differ

A table stands between `<!-- fields: NAME -->` and `<!-- end of fields -->`; NAME is every, sockets or an event.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tracer.model.events import Event  # noqa: E402
from tracer.model.fields import declarations  # noqa: E402
from tracer.model.sockets import Socket  # noqa: E402

PAGE = ROOT / "docs" / "events.md"
_TABLE = re.compile(r"(<!-- fields: ([a-z-]+) -->\n).*?(<!-- end of fields -->)", re.DOTALL)


def rows(table: str) -> Iterator[str]:
    """The rows of one table, in the order of JSON lines."""
    for name, declared in (*declarations(Event).items(), *declarations(Socket).items()):
        if table in declared.docs:
            yield f"| `{'time' if name == 'time_ns' else name}` | {declared.docs[table]} |"


def with_tables(page: str) -> str:
    """The page with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        lines = ["| field | meaning |", "|---|---|", *rows(match[2])]
        return "\n".join((match[1], *lines, "", match[3]))

    return _TABLE.sub(made, page)


def main(arguments: list[str]) -> int:
    """Compare or write the page."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(page)
    if arguments == ["--write"]:
        PAGE.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        print("docs/events.md differs: python scripts/field_tables.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
