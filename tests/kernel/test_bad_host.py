"""Hosts on which it cannot work: a clear error, a hint, the right exit status, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import bcc
import pytest
from changed_host import tcpwatch
from leftovers import assert_nothing_left
from watching import AS_NOBODY, ROOT


def assert_refused(shown: subprocess.CompletedProcess[str], complaint: str, hint: str) -> None:
    assert shown.returncode == 1, shown.stderr
    assert shown.stdout == ""
    first, second = shown.stderr.splitlines()
    assert first.startswith("tcpwatch: ") and complaint in first
    assert second.startswith("Hint: ") and hint in second
    assert_nothing_left()


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AS_NOBODY, *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip


def test_not_root() -> None:
    assert_refused(as_nobody("--port", "3306"), "needs root", "sudo")


@pytest.mark.parametrize("command", ["record", "demo"])
def test_not_root_either(command: str, tmp_path: Path) -> None:
    options = ["-o", str(tmp_path / "x.tw")] if command == "record" else []
    assert_refused(as_nobody(command, *options), "needs root", "sudo")
    assert not (tmp_path / "x.tw").exists()


_BCC = Path(bcc.__file__).parent


def test_bcc_is_missing(tmp_path: Path) -> None:
    shown = tcpwatch("--port", "3306", before=f"mount -t tmpfs none {_BCC}", CACHE_DIRECTORY=str(tmp_path))
    assert_refused(shown, "bcc is missing", "apt-get install python3-bpfcc")


def test_bcc_is_the_other_project_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("__version__ = '0.1'\n")
    shown = tcpwatch(
        "--port", "3306", before=f"mount --bind {tmp_path} {_BCC}", CACHE_DIRECTORY=str(tmp_path / "cache")
    )
    assert_refused(shown, "is PyPI's, which is another project", "pip uninstall bcc")


def test_bcc_is_not_needed_once_the_program_is_compiled(tmp_path: Path) -> None:
    assert tcpwatch("--duration", "10ms", CACHE_DIRECTORY=str(tmp_path)).returncode == 0
    shown = tcpwatch("--duration", "10ms", before=f"mount -t tmpfs none {_BCC}", CACHE_DIRECTORY=str(tmp_path))
    assert "tracing every TCP connection" in shown.stderr


def test_no_btf() -> None:
    shown = tcpwatch(before="mount -t tmpfs none /sys/kernel/btf")
    assert_refused(shown, "has no BTF", "CONFIG_DEBUG_INFO_BTF")


def test_btf_is_garbage(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"not BTF at all")
    shown = tcpwatch(before=f"mount --bind {tmp_path} /sys/kernel/btf")
    assert_refused(shown, "/sys/kernel/btf/vmlinux cannot be read", "libbpf")


def test_lockdown_confidentiality(tmp_path: Path) -> None:
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    shown = tcpwatch(before=f"mount --bind {tmp_path} /sys/kernel/security")
    assert_refused(shown, "lockdown=confidentiality", "lockdown=integrity")


def test_tracefs_is_not_needed() -> None:
    hide = "for d in /sys/kernel/tracing /sys/kernel/debug; do mount -t tmpfs none $d; done"
    shown = tcpwatch("--duration", "10ms", before=hide)
    assert shown.returncode == 0, shown.stderr
    assert "tracing every TCP connection" in shown.stderr


def test_the_recording_cannot_be_made(tmp_path: Path) -> None:
    shown = tcpwatch("-w", str(tmp_path / "no/such/x.tw"))
    assert_refused(shown, "cannot create", "mkdir -p")


def test_the_disk_of_the_recording_is_full() -> None:
    shown = tcpwatch("-w", "/dev/full")
    assert_refused(shown, "cannot write /dev/full: No space left on device", "df -h")


def test_symbols_are_hidden_so_keepalives_are_not_seen(tmp_path: Path) -> None:
    if Path("/sys/bus/event_source/devices/kprobe").exists():
        hide = "mount -t tmpfs none /sys/bus/event_source/devices; "
    else:
        hide = ""
    (tmp_path / "kallsyms").write_text("0000000000000000 t tcp_keepalive_timer\n")
    shown = tcpwatch("check", "--json", before=f"{hide}mount --bind {tmp_path / 'kallsyms'} /proc/kallsyms")
    report = json.loads(shown.stdout)
    keepalive = next(finding for finding in report["findings"] if finding["what"] == "keepalive")
    assert (shown.returncode, report["live"], keepalive["status"]) == (0, True, "missing")


def test_check_finds_every_hook_here() -> None:
    shown = tcpwatch("check", "--json")
    report = json.loads(shown.stdout)
    assert (shown.returncode, report["live"]) == (0, True)
    assert {
        finding["what"]: finding["status"] for finding in report["findings"] if finding["status"] == "missing"
    } == {}
    assert_nothing_left()


def test_check_without_btf_says_so_and_fails() -> None:
    shown = tcpwatch("check", before="mount -t tmpfs none /sys/kernel/btf")
    assert shown.returncode == 1
    assert "Live tracing does not work here." in shown.stdout
    assert "Hint: BTF: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y" in shown.stdout
    assert "Traceback" not in shown.stderr
