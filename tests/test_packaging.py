"""A wheel built from the tree is complete, and works from an environment that knows nothing of the tree."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from recording_files import write

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the tree stays clean."""
    directory = tmp_path_factory.mktemp("wheel")
    tree = directory / "tree"
    shutil.copytree(
        ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "*_cache", "__pycache__", "*.egg-info")
    )
    # Where setuptools is a package of the distribution, PyPI is not needed.
    has_tools = all(importlib.util.find_spec(name) for name in ("setuptools", "wheel"))
    isolation = ["--no-isolation"] if has_tools else []
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(directory), str(tree)],
        check=True,
        capture_output=True,
    )
    return next(directory.glob("*.whl"))


def test_the_wheel_has_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"tracer/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "bpf").rglob("*") if path.is_file()}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracer").rglob("*.py")}
    assert sources | modules <= names
    assert any(name.endswith("/LICENSE") and ".dist-info/" in name for name in names)


def test_the_wheel_works_from_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", str(environment)], check=True)
    python = environment / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, capture_output=True)
    shown = subprocess.run([environment / "bin/tcpwatch", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "tcpwatch, version 0.1.0\n")
    program = (
        "from tracer.kernel.program.source import SOCKETS, TRACER, bpf_directory, read_source;"
        "d = bpf_directory(); [read_source(d, name) for name in (TRACER, SOCKETS)]; print(d)"
    )
    found = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert found.startswith(str(environment)) and (Path(found) / "include/linux/types.h").exists()


def test_recordings_are_read_where_only_pip_installs(wheel: Path, tmp_path: Path) -> None:
    """As on a laptop: without the distribution's packages, so without bcc."""
    environment = tmp_path / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", str(environment)], check=True)
    python = environment / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, capture_output=True)
    write(tmp_path / "x.tw")

    def tcpwatch(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [environment / "bin/tcpwatch", *arguments], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "CACHE_DIRECTORY": str(tmp_path)},
        )  # fmt: skip

    for command in ("report", "replay"):
        shown = tcpwatch(command, "x.tw")
        assert (shown.returncode, shown.stderr) == (0, "") and shown.stdout
    live = tcpwatch("--duration", "1")
    assert (live.returncode, live.stdout) == (1, "")
    message, hint = live.stderr.splitlines()[-2:]
    if os.geteuid() == 0:
        assert message.startswith("tcpwatch: the Python package bcc is missing")
        assert hint.startswith("Hint: sudo apt-get install python3-bpfcc")
    else:
        assert "needs root" in message
