"""Which kernels are chosen for the virtual machines, and the table of what was run on them; no machine is started."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from machines import archive as archive_module
from machines import kernels, matrix, roots, table
from machines.archive import Suite
from machines.errors import MachineError, NotThere
from machines.matrix import Outcome
from machines.sources import Archive, archive_for

ROOT = Path(__file__).resolve().parent.parent


class FakeSuite(Suite):
    """A suite that has these packages, and names more."""

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
    archive = FakeSuite({f"linux-image-6.1.0-{number}-cloud-amd64": "" for number in (9, 10, 56)})
    assert kernels._newest(archive, "6.1") == "6.1.0-56-cloud-amd64"


def test_other_flavours_series_and_debug_symbols_are_none() -> None:
    archive = FakeSuite(
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
    archive = FakeSuite(
        {
            f"linux-image-{new}": split.format(new),
            f"linux-image-{old}": split.format(old),
            f"linux-binary-{old}": "",
            f"linux-modules-{old}": "",
        },
        names=[f"linux-modules-{new}", "linux-image-7.2.0-cloud-amd64"],
    )
    assert kernels._newest(archive, kernels.NEWEST) == old


KEY = "/usr/share/keyrings/company.gpg"
DEB822 = """\
# Near us.
Types: deb deb-src
URIs: http://near/debian/
# http://comment/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: {key}

Types: deb
URIs: http://near/security
Suites: bookworm-security
Components: main
"""


@pytest.mark.parametrize(
    ("suite", "sources", "expected"),
    [
        ("trixie", {"sources.list": "deb [arch=amd64] http://near/debian bookworm main\n"}, Archive("http://near/debian")),
        ("trixie", {"sources.list": f"deb [ arch=amd64 signed-by={KEY} ] http://near/d/ sid main # x\n"},
         Archive("http://near/d", KEY)),
        ("sid", {"sources.list.d/a.sources": DEB822.format(key=KEY)}, Archive("http://near/debian", KEY)),
        ("sid-backports", {"sources.list.d/a.sources": DEB822.format(key=KEY)}, Archive("http://near/debian", KEY)),
        ("bullseye-security", {"sources.list.d/a.sources": DEB822.format(key=KEY)}, Archive("http://near/security")),
        ("bullseye-security", {"sources.list": "deb http://old/s buster/updates main\n"}, Archive("http://old/s")),
        ("sid", {"sources.list": "deb [trusted=yes] file:/srv/debian bookworm main\n"},
         Archive("file:/srv/debian", is_trusted=True)),
        ("sid", {"sources.list": "deb cdrom:[Debian 12]/ bookworm main\ndeb http://near/debian bookworm main\n"},
         Archive("http://near/debian")),
        ("sid", {"sources.list.d/a.list": "deb http://other/x bookworm main\n",
                 "sources.list.d/b.list": "deb http://near/d sid main\ndeb http://near/d trixie main\n"},
         Archive("http://near/d")),
    ],
)  # fmt: skip
def test_a_suite_comes_from_the_sources_of_this_machine(
    tmp_path: Path, suite: str, sources: dict[str, str], expected: Archive
) -> None:
    write_sources(tmp_path, sources)
    assert archive_for(suite, tmp_path) == expected


def test_a_key_in_the_source_is_kept_whole(tmp_path: Path) -> None:
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----"
    write_sources(tmp_path, {"sources.list.d/a.sources": DEB822.format(key=key)})
    archive = archive_for("sid", tmp_path)
    assert archive.signed_by == key
    assert f"Signed-By: {key}\n" in archive_module._source("sid", archive)


@pytest.mark.parametrize(
    "sources",
    [
        {},
        {"sources.list": "deb http://near/ubuntu noble main\n"},
        {"sources.list": "# deb http://off/debian bookworm main\ndeb-src http://off/debian bookworm main\n"},
        {"sources.list": "deb http://near/debian bookworm contrib\n"},
        {"sources.list": "deb http://near/pgdg bookworm-pgdg main\ndeb http://near/x ./\n"},
        {"sources.list.d/a.sources": "Enabled: no\n" + DEB822.format(key=KEY).partition("\n\n")[0]},
        {"sources.list.d/a.sources.off": DEB822.format(key=KEY)},
    ],
)
def test_without_debian_sources_it_says_what_to_add(tmp_path: Path, sources: dict[str, str]) -> None:
    write_sources(tmp_path, sources)
    with pytest.raises(MachineError, match="no Debian source for sid") as raised:
        archive_for("sid", tmp_path)
    assert "sid main" in raised.value.hint


def test_without_security_sources_a_kernel_of_them_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(tmp_path, {"sources.list": "deb http://near/debian sid main\n"})
    monkeypatch.setattr(kernels, "archive_for", lambda suite: archive_for(suite, tmp_path))
    with pytest.raises(MachineError, match="bookworm-security") as raised:
        kernels.get("6.1", tmp_path / "cache")
    assert not isinstance(raised.value, NotThere)


def test_debootstrap_gets_the_first_address_of_a_list_of_mirrors(tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.write_text("# near first\n\nhttp://near/debian/\tpriority:1\nhttp://far/debian\n")
    assert Archive(f"mirror+file:{mirrors}").address() == "http://near/debian"
    assert Archive(f"mirror+file://{mirrors}").address() == "http://near/debian"
    for uri in ("mirror+http://near/list", "mirror://near/list", "tor+http://near/debian"):
        with pytest.raises(MachineError, match="debootstrap cannot use") as raised:
            Archive(uri).address()
        assert "http://" in raised.value.hint


def test_the_scripts_name_no_package_host() -> None:
    for path in (ROOT / "scripts").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"(deb|security|archive|ftp)\.debian\.org", path.read_text()), path


def write_sources(apt: Path, sources: dict[str, str]) -> None:
    (apt / "sources.list.d").mkdir()
    for name, text in sources.items():
        (apt / name).write_text(text)


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


def test_two_that_want_a_tree_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_make = threading.Barrier(2)
    made: list[Path] = []

    def make(name: str, tree: Path, packages: Sequence[str]) -> None:
        made.append(tree)
        with suppress(threading.BrokenBarrierError):
            both_make.wait(1)

    monkeypatch.setattr(roots, "_make", make)
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(roots.minimal, "trixie", tmp_path) for _ in range(2)]
        assert {each.result() for each in both} == {tmp_path / "roots/trixie-minimal"}
    assert made == [tmp_path / "roots/trixie-minimal"]
