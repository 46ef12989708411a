"""Copies of the tree for tests of scripts/, and mount namespaces in which a host looks different."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECORDING = "x.tw"
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
PATIENCE_S = 120

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes mount namespaces and changes users: needs root")


def copy_tree(target: Path) -> Path:
    """What a clone has, without what runs have left in this one, and with the modes of an ordinary umask."""
    ignored = shutil.ignore_patterns(".git", ".venv*", ".clients*", "*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, target, ignore=ignored)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return target


@contextmanager
def public_directory() -> Iterator[Path]:
    """One that every user can enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory(prefix="tcpwatch-test.") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def run(
    *command: str | Path, before: str = "", umask: int = 0o022, cwd: Path = Path("/"), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it. before: shell commands that change what the host looks like, in a mount namespace of its own."""
    argv = [str(word) for word in command]
    if before:
        script = f'set -e\n{before}\nexec "$@"'
        argv = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "bash", *argv]
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=cwd, umask=umask, timeout=PATIENCE_S,
        env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def program(path: Path, script: str) -> Path:
    """A shell program there."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def instead_of(original: str, replacement: Path) -> str:
    """A command for `before`: the replacement takes the place of the original."""
    return f"mount --bind '{replacement}' {original}"


def assert_in_words(shown: subprocess.CompletedProcess[str], complaint: str, hint: str) -> None:
    """It failed with a message and a hint, and without a trace of bash or Python."""
    assert shown.returncode == 1, shown.stderr
    messages = shown.stderr.splitlines()
    assert any(line.startswith("tcpwatch: ") and complaint in line for line in messages), shown.stderr
    assert any(line.startswith("Hint: ") and hint in line for line in messages), shown.stderr
    assert "Traceback" not in shown.stderr and ": line " not in shown.stderr, shown.stderr
