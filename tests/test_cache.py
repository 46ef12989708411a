"""Compiled programs that are kept, and what is not trusted."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer.kernel.program import cache, compiled, compiler
from tracer.kernel.program.compiled import Compiled, Map
from tracer.kernel.program.source import Source
from tracer.model.errors import TcpwatchError

SOURCE = Source("int f(void *ctx) { return 0; }", ("-DKERNEL_HZ=250",), Path("/nowhere"))
OTHERS = (
    Source(SOURCE.text + " ", SOURCE.cflags, SOURCE.directory),
    Source(SOURCE.text, ("-DKERNEL_HZ=100",), SOURCE.directory),
)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("CACHE_DIRECTORY", str(directory))
    return directory


def the_file(directory: Path) -> Path:
    (file,) = directory.iterdir()
    return file


def test_nothing_was_kept() -> None:
    assert cache.load(SOURCE) is None


def test_what_was_kept_is_there_for_the_same_source_only(directory: Path) -> None:
    cache.store(SOURCE, "{}")
    assert cache.load(SOURCE) == b"{}"
    assert cache.load(Source(SOURCE.text, SOURCE.cflags, Path("/elsewhere"))) == b"{}"
    assert [cache.load(other) for other in OTHERS] == [None, None]
    assert (directory.stat().st_mode & 0o777, the_file(directory).stat().st_mode & 0o777) == (0o755, 0o644)


def test_another_version_of_tcpwatch_compiles_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(SOURCE, "{}")
    monkeypatch.setattr("tracer.__version__", "99.0")
    assert cache.load(SOURCE) is None


@pytest.mark.parametrize("length", [0, 1, 40, 64, 65, 66])
def test_half_a_file_is_none(directory: Path, length: int) -> None:
    cache.store(SOURCE, "{}")
    file = the_file(directory)
    file.write_bytes(file.read_bytes()[:length])
    assert cache.load(SOURCE) is None


def test_a_bit_that_fell_over_is_noticed(directory: Path) -> None:
    cache.store(SOURCE, "{}")
    file = the_file(directory)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert cache.load(SOURCE) is None
    cache.store(SOURCE, "{}")
    assert cache.load(SOURCE) == b"{}"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_what_others_can_write_to_is_not_trusted(directory: Path, mode: int) -> None:
    cache.store(SOURCE, "{}")
    the_file(directory).chmod(mode)
    assert cache.load(SOURCE) is None


def test_nor_is_a_directory_that_others_can_write_to(directory: Path) -> None:
    cache.store(SOURCE, "{}")
    directory.chmod(0o777)
    assert cache.load(SOURCE) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["directory", "file"])
def test_nor_what_belongs_to_somebody_else(directory: Path, what: str) -> None:
    cache.store(SOURCE, "{}")
    os.chown(directory if what == "directory" else the_file(directory), 65534, -1)
    assert cache.load(SOURCE) is None


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    cache.store(SOURCE, "{}")
    file = the_file(directory)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert cache.load(SOURCE) is None


def test_the_directory_is_no_link_either(directory: Path, tmp_path: Path) -> None:
    cache.store(SOURCE, "{}")
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    assert cache.load(SOURCE) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize(
    ("damage", "complaint", "hint"),
    [
        (lambda place: place.write_text("a file in its way"), "is not a directory", "sudo rm"),
        (lambda place: place.symlink_to(place.parent), "is not a directory", "sudo rm"),
        (lambda place: (place.mkdir(), place.chmod(0o777)), "other users can write", "sudo chmod go-w"),
        (lambda place: (place.mkdir(), place.chmod(0o775)), "mode 0775", "sudo chmod go-w"),
        (lambda place: (place.mkdir(), os.chown(place, 65534, -1)), "another user (uid 65534)", "sudo chown root:"),
    ],
)
def test_where_nothing_can_be_kept_it_says_why(
    directory: Path, damage: Callable[[Path], object], complaint: str, hint: str
) -> None:
    damage(directory)
    with pytest.raises(cache.NotCached, match=re.escape(complaint)) as caught:
        cache.store(SOURCE, "{}")
    assert hint in caught.value.hint and str(directory) in caught.value.hint
    assert cache.load(SOURCE) is None


def test_a_directory_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/nowhere/cache")
    with pytest.raises(cache.NotCached, match="cannot write to /nowhere/cache: No such file") as caught:
        cache.store(SOURCE, "{}")
    assert "CACHE_DIRECTORY" in caught.value.hint


def test_of_several_directories_the_first_is_taken(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", f"{directory}:/nowhere")
    cache.store(SOURCE, "{}")
    assert cache.load(SOURCE) == b"{}"


def test_what_was_dropped_is_gone() -> None:
    cache.remove(SOURCE)
    cache.store(SOURCE, "{}")
    cache.remove(SOURCE)
    assert cache.load(SOURCE) is None


def test_only_the_latest_are_kept(directory: Path) -> None:
    for number in range(cache.MAX_FILES + 4):
        source = Source(SOURCE.text, (f"-DNUMBER={number}",), SOURCE.directory)
        cache.store(source, "{}")
        newest = max(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert len(list(directory.iterdir())) == cache.MAX_FILES
    assert cache.load(source) == b"{}"
    assert cache.load(Source(SOURCE.text, ("-DNUMBER=0",), SOURCE.directory)) is None


def test_where_no_process_can_be_started_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(TcpwatchError, match="cannot start /nowhere/python") as caught:
        compiler.compile_source(SOURCE)
    assert not isinstance(caught.value, compiler.ProgramError) and caught.value.hint == "ls -l /nowhere/python"


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "complaint", "hint"),
    [
        (0, '{"missing": "no module"}', "", "the Python package bcc is missing (no module)", "apt-get"),
        (0, '{"memory": "libLLVM"}', "", "not enough memory to compile the program (libLLVM)", "free -m"),
        (0, '{"foreign": "/x"}', "", "bcc in /x is PyPI's", "pip uninstall bcc"),
        (0, '{"error": "Failed"}', "", "bcc could not compile the program: Failed", "tcpwatch check"),
        (
            0,
            '{"error": "Failed"}',
            "could not open bpf map: events, error: Operation not permitted\n",
            "the kernel refused a map: Operation not permitted",
            "ulimit -l unlimited; tcpwatch check",
        ),
        (
            0,
            '{"error": "Failed"}',
            "x.c:1: error: no such member\n1 error generated.\n",
            "program: x.c:1: error: no such member",
            "",
        ),
        (-9, "", "", "the compiler was killed by SIGKILL, probably for lack of memory", "free -m"),
        (-6, "", "LLVM ERROR: out of memory\n", "SIGABRT, probably for lack of memory: LLVM ERROR", "free -m"),
        (1, "", "Traceback\nMemoryError\n", "the compiler ended with status 1: MemoryError", "free -m"),
        (1, "", "odd\n", "the compiler ended with status 1: odd", "tcpwatch check"),
    ],
)
def test_why_it_did_not_compile(
    monkeypatch: pytest.MonkeyPatch, status: int, stdout: str, stderr: str, complaint: str, hint: str
) -> None:
    run = subprocess.CompletedProcess([], status, stdout, stderr)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: run)
    with pytest.raises(TcpwatchError, match=re.escape(complaint)) as caught:
        compiler.compile_afresh(SOURCE)
    assert hint in caught.value.hint


ARRAY = {"map_type": 2, "key_size": 4, "value_size": 8, "max_entries": 1, "map_flags": 0}
# r1 = map 1; r0 = 0; exit
CODE = bytes.fromhex("1811000001000000 0000000000000000 b700000000000000 9500000000000000")


def test_a_map_takes_the_place_of_its_number() -> None:
    program = Compiled({"a": Map(**ARRAY), "b": Map(**ARRAY)}, {"f": CODE})
    linked = program.linked("f", [70, 71])
    assert linked == CODE[:4] + (71).to_bytes(4, "little") + CODE[8:]


def test_a_helper_below_zero_is_a_function_of_the_kernel() -> None:
    # call helper 14; call helper -65475; call the function 3 instructions before; exit
    code = "850000000e000000 850000003d00ffff 85100000fdffffff 9500000000000000"
    linked = Compiled({}, {"f": bytes.fromhex(code)}).linked("f", [])
    assert linked.hex(" ", 8) == "850000000e000000 85200000c3ff0000 85100000fdffffff 9500000000000000"


def test_what_was_compiled_can_be_read() -> None:
    program = compiled.parse_compiled(
        json.dumps({"bcc": "0", "maps": {"a": ARRAY}, "functions": {"f": "lQAAAAAAAAA="}})
    )
    assert program == Compiled({"a": Map(**ARRAY)}, {"f": bytes.fromhex("9500000000000000")})


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "{}", '{"maps":{}}', '{"maps":[],"functions":{}}', '{"maps":{"a":{}},"functions":{}}',
        '{"maps":{},"functions":{"f":"?"}}', '{"maps":{},"functions":{"f":1}}', '{"error":"no"}', "[" * 100_000,
        '{"maps":{},"functions":{"f":"lQAA"}}',  # three bytes
        '{"maps":{},"functions":{"f":"GBEAAAEAAAAAAAAAAAAAAA=="}}',  # the second of no maps
        '{"maps":{"a":{"map_type":2,"key_size":-1,"value_size":8,"max_entries":1,"map_flags":0}},"functions":{}}',
        '{"maps":{},"functions":{},"refused":[[]]}',
    ],
)  # fmt: skip
def test_what_is_no_program_says_so(text: str) -> None:
    with pytest.raises(compiled.InvalidProgram):
        compiled.parse_compiled(text)
