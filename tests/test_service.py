"""The systemd unit: what systemd itself says of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tracer.cli.live import rotation_of
from tracer.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "scripts/tcpwatch.service"


COMPACT = ROOT / "scripts/tcpwatch-compact.service"
PROTECT = ROOT / "scripts/tcpwatch-protect@.service"
UNITS = pytest.mark.parametrize("source", [UNIT, COMPACT, PROTECT], ids=lambda path: path.name)


@pytest.fixture
def unit(tmp_path: Path, source: Path) -> Path:
    """As installed, with a command that is there. Of a template, an instance."""
    installed = tmp_path / source.name.replace("@.", "@mysql.")
    installed.write_text(source.read_text().replace("/usr/local/bin/tcpwatch", "/bin/true"))
    return installed


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, timeout=60)


def verify(unit: Path) -> tuple[int, list[str]]:
    """Exit status and complaints, without the one of systemd 247 about cgroups that it cannot use, as in a chroot."""
    verified = analyze("verify", "--man=no", unit)
    complaints = verified.stderr.splitlines()
    return verified.returncode, [each for each in complaints if "Couldn't move remaining userspace" not in each]


@UNITS
def test_it_is_a_good_unit(unit: Path) -> None:
    assert verify(unit) == (0, [])


@UNITS
def test_it_is_confined(unit: Path) -> None:
    judged = analyze("security", "--offline=true", "--threshold=30", unit)
    assert judged.returncode == 0, judged.stdout[-300:]


@UNITS
def test_a_crash_loop_ends(source: Path) -> None:
    """Failures at once, each followed by RestartSec, reach the limit before its interval is over."""
    settings = dict(re.findall(r"^(\w+)=(\d+)", source.read_text(), re.MULTILINE))
    assert re.search(
        r"^\[Unit\].*^StartLimitIntervalSec=1h$.*^\[Service\]", source.read_text(), re.MULTILINE | re.DOTALL
    )
    assert int(settings["StartLimitBurst"]) * int(settings["RestartSec"]) < 3600


def test_it_has_the_capabilities_that_are_documented() -> None:
    granted = re.search(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert granted is not None
    documented = (ROOT / "docs/requirements.md").read_text().partition("## Least privilege")[2].partition("\n## ")[0]
    names = set(re.findall(r"CAP_\w+", documented)) - {"CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"}
    assert set(granted[1].split()) == names
    assert "LimitMEMLOCK=infinity" in UNIT.read_text(), "in place of CAP_SYS_RESOURCE"


@pytest.mark.parametrize(("source", "most", "is_compact"), [(UNIT, 10 << 30, False), (COMPACT, 500 << 20, True)])
def test_it_does_not_fill_the_disk(source: Path, most: int, is_compact: bool) -> None:
    """The command is one that is understood, and bounds what it keeps."""
    started = re.search(r"^ExecStart=\S+ record (.*)$", source.read_text(), re.MULTILINE)
    assert started is not None
    given = cli.commands["record"].make_context("record", shlex.split(started[1])).params
    assert (given["keep_size"], given["is_compact"]) == (most, is_compact)
    rotation_of(given["rotate_size"], given["rotate_every"], given["keep"], given["keep_size"])
    assert f"LogsDirectory={given['recording'].parent.name}" in source.read_text().splitlines()


def test_the_two_recorders_are_confined_alike() -> None:
    """They differ in what they record, and where: a report of one directory counts no stall twice."""
    own = ("Description=", "ExecStart=", "LogsDirectory=", "#")
    settings = [
        [line for line in source.read_text().splitlines() if not line.startswith(own)] for source in (UNIT, COMPACT)
    ]
    assert settings[0] == settings[1]


def test_the_example_of_the_template_is_understood() -> None:
    text = PROTECT.read_text()
    started = re.search(r"^ExecStart=\S+ protect (.*) \$OPTIONS$", text, re.MULTILINE)
    example = re.search(r"^#\s+OPTIONS=(.*)$", text, re.MULTILINE)
    assert started is not None and example is not None
    typed = [*shlex.split(started[1]), *example[1].split()]  # systemd.exec(5): $OPTIONS is split at spaces
    given = cli.commands["protect"].make_context("protect", typed).params
    assert (given["follow"], given["idle_s"]) == (True, 240)


def test_the_template_has_the_capabilities_that_are_documented() -> None:
    granted = re.search(r"^CapabilityBoundingSet=(.*)$", PROTECT.read_text(), re.MULTILINE)
    documented = re.search(
        r"`tcpwatch protect --follow` needs (.*?)\.", (ROOT / "docs/requirements.md").read_text(), re.DOTALL
    )
    assert granted is not None and documented is not None
    assert set(granted[1].split()) == set(re.findall(r"CAP_\w+", documented[1]))


def test_the_drop_in_for_metrics_is_understood(tmp_path: Path) -> None:
    """docs/fleet.md: what it starts is the unit's own command with --metrics, and it may write there."""
    drop_in, given = drop_in_with("--metrics")
    writable = re.search(r"^ReadWritePaths=(.*)$", drop_in, re.MULTILINE)
    assert writable is not None and str(given["metrics_file"].parent) == writable[1]
    assert_verified(drop_in, tmp_path)


def test_the_drop_in_for_opentelemetry_is_understood(tmp_path: Path) -> None:
    """docs/fleet.md: what it starts is the unit's own command with --otlp, and it may connect."""
    drop_in, given = drop_in_with("--otlp")
    assert given["otlp"].url() == "http://127.0.0.1:4318"
    assert {"PrivateNetwork=no", "RestrictAddressFamilies=AF_INET AF_INET6"} <= set(drop_in.splitlines())
    assert "PrivateNetwork=yes" in UNIT.read_text() and "RestrictAddressFamilies=AF_UNIX" in UNIT.read_text()
    assert_verified(drop_in, tmp_path)


def drop_in_with(option: str) -> tuple[str, dict[str, Any]]:
    """The drop-in of docs/fleet.md that adds this option to the unit's command, and what `record` is given there."""
    page = (ROOT / "docs/fleet.md").read_text()
    for drop_in in re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        ordinary, other = re.findall(r"^ExecStart=(\S+ record .*)$", UNIT.read_text() + drop_in, re.MULTILINE)
        if other.startswith(f"{ordinary} {option} "):
            return drop_in, cli.commands["record"].make_context("record", shlex.split(other)[2:]).params
    raise AssertionError(option)


def assert_verified(drop_in: str, tmp_path: Path) -> None:
    """systemd accepts the unit with the drop-in."""
    installed = tmp_path / "tcpwatch.service"
    installed.write_text(UNIT.read_text().replace("/usr/local/bin/tcpwatch", "/bin/true"))
    (tmp_path / "tcpwatch.service.d").mkdir()
    (tmp_path / "tcpwatch.service.d" / "override.conf").write_text(
        drop_in.replace("/usr/local/bin/tcpwatch", "/bin/true")
    )
    assert verify(installed) == (0, [])
