"""The rpm package, built from the tree by Debian's rpmbuild: its files, what it needs, and its scripts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import tracer

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "scripts/packaging/build-rpm"
# Debian's rpm lacks the macros of systemd (systemd: src/rpm/macros.systemd.in). These show what they get.
MACROS = """
%_unitdir /usr/lib/systemd/system
%systemd_post() systemd-post %{?*}
%systemd_preun() systemd-preun %{?*}
%systemd_postun_with_restart() systemd-postun %{?*}
"""


def build(into: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BUILD, into], capture_output=True, text=True, env={**os.environ, "HOME": str(home)}, timeout=120
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / ".rpmmacros").write_text(MACROS)
    done = build(home / "made", home)
    assert done.returncode == 0, done.stderr
    (made,) = (home / "made").glob("*.noarch.rpm")
    return made


def query(package: Path, *options: str) -> str:
    return subprocess.run(
        ["rpm", "--query", "--package", *options, package], capture_output=True, text=True, check=True
    ).stdout


def test_it_has_the_version_and_the_needs_of_the_tree(package: Path) -> None:
    assert query(package, "--queryformat", "%{VERSION} %{LICENSE}") == (
        f"{tracer.__version__} Apache-2.0 AND GPL-2.0-or-later"
    )
    needed = query(package, "--requires").splitlines()
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert dependencies is not None
    for name, version in re.findall(r'"(\w+)>=([\d.]+)"', dependencies[1]):
        assert f"python3-{name} >= {version}" in needed
    assert "python3-bcc" in needed and "python3 >= 3.9" in needed


def test_its_files_are_those_of_the_other_package(package: Path) -> None:
    files = set(query(package, "--list").splitlines())
    modules = {path.relative_to(ROOT) for path in (ROOT / "tracer").rglob("*.py")}
    programs = {Path("tracer", path.relative_to(ROOT)) for path in (ROOT / "bpf").rglob("*.[ch]")}
    assert {f"/usr/share/tcpwatch/library/{each}" for each in modules | programs} <= files
    for each in (
        "bin/tcpwatch", "lib/systemd/system/tcpwatch.service", "lib/systemd/system/tcpwatch-protect@.service",
        "lib/systemd/system/tcpwatch-compact.service",
        "share/man/man8/tcpwatch.8", "share/bash-completion/completions/tcpwatch",
        "share/zsh/site-functions/_tcpwatch", "share/fish/vendor_completions.d/tcpwatch.fish",
    ):  # fmt: skip
        assert f"/usr/{each}" in files
    assert {Path(each).name for each in files if each.startswith("/usr/share/licenses/")} >= {
        "LICENSE",
        "LICENSE.bpf",
    }
    assert not [each for each in files if "__pycache__" in each or "site-packages" in each or "/local/" in each]


def test_systemd_gets_the_units(package: Path) -> None:
    scripts = query(package, "--scripts")
    assert "systemd-post tcpwatch.service tcpwatch-compact.service\n" in scripts
    for script in ("preun", "postun"):
        assert f"systemd-{script} tcpwatch.service tcpwatch-compact.service tcpwatch-protect@\\*.service\n" in scripts


def test_without_the_macros_of_systemd_nothing_is_built(tmp_path: Path) -> None:
    refused = build(tmp_path / "made", tmp_path)
    assert refused.returncode == 1
    assert "lacks the macros of systemd" in refused.stderr and "Hint: " in refused.stderr
    assert not (tmp_path / "made").exists()
