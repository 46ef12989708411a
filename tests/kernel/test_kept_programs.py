"""Compiled programs that were kept: what the kernel refuses is compiled again; what cannot be kept is explained."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from changed_host import tcpwatch
from leftovers import assert_nothing_left

QUICK = ("--duration", "10ms", "--port", "9")
EXIT = base64.b64encode(bytes.fromhex("9500000000000000")).decode()  # without a value in r0: the verifier refuses it
Damage = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the programs of both commands."""
    directory = tmp_path_factory.mktemp("good")
    for command in (QUICK, ("sockets",)):
        assert tcpwatch(*command, CACHE_DIRECTORY=str(directory)).returncode == 0
    return directory


def damaged(good: Path, directory: Path, damage: Damage) -> Path:
    """A copy of it: both programs are changed, as far as they have what is changed, and valid by their checksums."""
    directory.mkdir(mode=0o755)
    for file in good.iterdir():
        program = json.loads(file.read_bytes().partition(b"\n")[2])
        damage(program)
        content = json.dumps(program).encode()
        (directory / file.name).write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    return directory


def replace(function: str) -> Damage:
    return lambda program: program["functions"].update({function: EXIT} if function in program["functions"] else {})


def without(function: str) -> Damage:
    return lambda program: program["functions"].pop(function, None)


def resize(name: str, **members: int) -> Damage:
    return lambda program: program["maps"].get(name, {}).update(members)


HASH, ARRAY, NO_PREALLOC = 1, 2, 1


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        (QUICK, replace("on_tcp_retransmit_skb")),
        (QUICK, replace("second_inet_sock_set_state")),
        (QUICK, replace("typed_tcp_probe")),  # for which there is a fallback
        (QUICK, replace("bpf_iter__task_file")),  # without which tracing goes on
        (QUICK, replace("report_holder")),  # likewise
        (QUICK, without("on_tcp_retransmit_skb")),
        (QUICK, resize("settings", value_size=8)),
        (QUICK, resize("settings", map_type=9999)),
        (QUICK, resize("filter_ports", key_size=4)),
        (QUICK, resize("lost", map_flags=0)),
        (QUICK, resize("walks", map_flags=0)),
        (QUICK, resize("events", map_type=HASH, key_size=4, value_size=4)),
        (("sockets",), replace("bpf_iter__tcp")),
        (("sockets",), replace("report_holder")),
        (("sockets",), resize("settings", value_size=8)),
    ],
)
def test_what_the_kernel_refuses_is_compiled_again_once(
    good: Path, tmp_path: Path, command: tuple[str, ...], damage: Damage
) -> None:
    cache = damaged(good, tmp_path / "cache", damage)
    first, second = (tcpwatch(*command, CACHE_DIRECTORY=str(cache)) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stderr.count(f"the compiled program in {cache} does not fit this kernel") == 1
    assert "compil" not in second.stderr
    assert_nothing_left()


@pytest.mark.parametrize(
    ("before", "why", "hint"),
    [
        ("chown 65534 {}", "{} belongs to another user (uid 65534)", "sudo chown root: {}"),
        ("chmod 777 {}", "other users can write to {} (mode 0777)", "sudo chmod go-w {}"),
        ("mount -t tmpfs -o ro,mode=755 none {}", "cannot write to {}: Read-only file system", "CACHE_DIRECTORY"),
        (
            "mount -t tmpfs -o size=4k,mode=755 none {}; head -c 4096 /dev/zero >{}/x",
            "cannot write to {}: No space left on device",
            "df -h {}",
        ),
    ],
)
def test_where_it_cannot_be_kept(tmp_path: Path, before: str, why: str, hint: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o755)
    script, why, hint = (text.replace("{}", str(cache)) for text in (before, why, hint))
    shown = tcpwatch(*QUICK, before=script, CACHE_DIRECTORY=str(cache))
    assert shown.returncode == 0, shown.stderr
    (line,) = [line for line in shown.stderr.splitlines() if "compile" in line]
    assert f"because {why}. Hint: {hint}" in line or (why in line and hint in line)
    checked = tcpwatch("check", before=script, CACHE_DIRECTORY=str(cache))
    (row,) = [line for line in checked.stdout.splitlines() if line.startswith("cache ")]
    assert row.split()[1] == "fallback" and why in row
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_directory_that_is_made_is_nothing_to_talk_about(tmp_path: Path) -> None:
    shown = tcpwatch(*QUICK, CACHE_DIRECTORY=str(tmp_path / "new"))
    assert "compile" not in shown.stderr
    assert len(list((tmp_path / "new").iterdir())) == 1
