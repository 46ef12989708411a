"""Which kernels are chosen for the virtual machines, and the table of what was run on them; no machine is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machines import kernels, matrix, table
from machines.archive import Suite, mirror
from machines.errors import NotThere
from machines.matrix import Outcome

ROOT = Path(__file__).resolve().parent.parent


class Archive(Suite):
    """That has these packages, and names more."""

    def __init__(self, has: dict[str, str], names: list[str] | None = None) -> None:
        self.name = "a-suite"
        self._has, self._names = has, names or []

    def names(self, prefix: str) -> list[str]:
        return [*self._has, *self._names]

    def has(self, package: str) -> bool:
        return package in self._has

    def depends(self, package: str) -> str:
        return self._has.get(package, "")


def test_the_newest_of_a_series_by_its_numbers() -> None:
    archive = Archive({f"linux-image-6.1.0-{number}-cloud-amd64": "" for number in (9, 10, 56)})
    assert kernels._newest(archive, "6.1") == "6.1.0-56-cloud-amd64"


def test_other_flavours_series_and_debug_symbols_are_none() -> None:
    archive = Archive(
        dict.fromkeys(
            (
                "linux-image-6.1.0-9-amd64", "linux-image-6.10.1-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64-dbg",
                "linux-image-6.1.0-9-cloud-amd64-unsigned", "linux-image-cloud-amd64",
            ),
            "",
        )
    )  # fmt: skip
    with pytest.raises(NotThere, match=r"no kernel 6\.1"):
        kernels._newest(archive, "6.1")


def test_an_image_that_outlived_its_modules_is_passed_over() -> None:
    split = "linux-binary-{0} (= 1), linux-modules-{0} (= 1)"
    new, old = "7.1.3+deb13-cloud-amd64", "7.0.9+deb13-cloud-amd64"
    archive = Archive(
        {
            f"linux-image-{new}": split.format(new),
            f"linux-image-{old}": split.format(old),
            f"linux-binary-{old}": "",
            f"linux-modules-{old}": "",
        },
        names=[f"linux-modules-{new}", "linux-image-7.2.0-cloud-amd64"],
    )
    assert kernels._newest(archive, kernels.NEWEST) == old


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"sources.list": "deb [arch=amd64] http://near/debian bookworm main\n"}, "http://near/debian"),
        ({"sources.list.d/a.sources": "Types: deb\nURIs: http://near/debian/\nSuites: x\n"}, "http://near/debian/"),
        ({"sources.list.d/a.list": "# deb http://off/debian x main\n"}, "http://deb.debian.org/debian"),
        ({"sources.list": "deb http://near/ubuntu noble main\n"}, "http://deb.debian.org/debian"),
    ],
)
def test_the_mirror_is_this_hosts(tmp_path: Path, sources: dict[str, str], expected: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    assert mirror("debian", tmp_path) == expected


def found(**details: Any) -> dict[str, Any]:
    names = {"kernel": "6.1.0-56-cloud-amd64 x86_64, HZ 250", "bcc": "0.26.0", "Python": "3.11.2",
             "keepalive": "kprobe tcp_write_wakeup", "reset (refused)": "x", "error": "x", **details}  # fmt: skip
    return {what: {"what": what, "status": "ok", "detail": detail} for what, detail in names.items()}


def test_the_table_has_a_row_for_what_passed_and_for_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    kept = "| newest | 7.3 | 0.26.0 | 3.11.2 | x | x | x | 20 passed |"
    old = f"| heads |\n| --- |\n| 6.12 | 6.12.1 | 0.26.0 | 3.11.2 | x | x | x | 20 passed |\n{kept}\n"
    document.write_text(f"before\n{table.BEGIN}{old}{table.END}after\n")
    outcomes = [
        Outcome("6.12", passed=25, failed="exit status 1", facts=found()),
        Outcome("6.1", passed=26, facts=found()),
        Outcome("5.10", skipped="the suite has no such kernel any more"),
    ]
    table.write(outcomes, document)
    text = document.read_text()
    assert text.startswith(f"before\n{table.BEGIN}| target |") and text.endswith(f"{table.END}after\n")
    assert [line for line in text.splitlines() if "passed" in line] == [
        "| 6.1 | 6.1.0-56-cloud-amd64 | 0.26.0 | 3.11.2 | kprobe tcp_write_wakeup | x | x | 26 passed |",
        kept,
    ]


def test_the_documents_table_is_one_that_was_written() -> None:
    """Every kernel that is tried has a row."""
    text = (ROOT / "docs/requirements.md").read_text()
    _, _, rest = text.partition(table.BEGIN)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in rest.partition(table.END)[0].splitlines()[2:]
    ]
    assert [row[0] for row in rows] == list(matrix.EVERY)
    for target, release, *_, passed in rows:
        assert target.startswith(kernels.NEWEST) or release.startswith(f"{target.partition('/')[0]}.")
        assert passed.endswith(" passed")
