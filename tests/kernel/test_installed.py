"""scripts/install: tcpwatch away from its tree, on the kernel, and gone again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from watching import ROOT


def run(*command: str | Path, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_there_and_back(tmp_path: Path) -> None:
    tree, prefix = tmp_path / "a tree", tmp_path / "prefix"
    ignored = shutil.ignore_patterns(".git", ".venv*", "*_cache", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    for _ in range(2):  # the second one is an upgrade
        installed = run(tree / "scripts/install", "--prefix", prefix)
        assert installed.returncode == 0, installed.stderr
    shutil.rmtree(tree)
    command = prefix / "usr/local/bin/tcpwatch"
    assert (prefix / "usr/local/lib/systemd/system/tcpwatch.service").is_file()
    # Whatever lies about in the current directory is not imported.
    (tmp_path / "click.py").write_text("raise SystemExit('hijacked')\n")
    assert run(command, "--version", cwd=tmp_path).stdout == "tcpwatch, version 0.1.0\n"
    cache = prefix / "var/cache/tcpwatch"
    cache.parent.mkdir(parents=True)
    traced = run("env", f"CACHE_DIRECTORY={cache}", command, "--duration", "10ms", cwd=tmp_path)
    assert len(list(cache.iterdir())) == 1
    assert traced.returncode == 0 and "tracing every TCP connection" in traced.stderr

    shutil.copytree(ROOT, tree, ignore=ignored)
    removed = run(tree / "scripts/install", "--prefix", prefix, "--remove")
    assert removed.returncode == 0, removed.stderr
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    foreign = tmp_path / "usr/local/bin/tcpwatch"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("#!/bin/sh\n")
    for option in ("--prefix", "--remove"):
        words: list[str | Path] = (
            ["--prefix", tmp_path] if option == "--prefix" else ["--prefix", tmp_path, "--remove"]
        )
        refused = run(ROOT / "scripts/install", *words)
        assert refused.returncode == 1
        assert "is not ours" in refused.stderr and "Hint: " in refused.stderr
    assert foreign.read_text() == "#!/bin/sh\n"


def test_wrong_options_are_named() -> None:
    refused = run(ROOT / "scripts/install", "--nonsense")
    assert refused.returncode == 1
    assert "unknown option --nonsense" in refused.stderr and "Traceback" not in refused.stderr


def test_running_from_the_tree_sets_itself_up_once(tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "*_cache", "__pycache__"))
    (tmp_path / "link").symlink_to(tree / "scripts/tcpwatch")
    first = run(tmp_path / "link", "--version")
    assert (first.returncode, first.stdout) == (0, "tcpwatch, version 0.1.0\n")
    assert "making" in first.stderr
    second = run(tree / "scripts/tcpwatch", "--version")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert run(tree / "scripts/tcpwatch", "--port", "nonsense").returncode == 2
