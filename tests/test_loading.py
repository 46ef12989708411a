"""A kept program is compiled again when the kernel refuses it, and never twice for the same reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tracer.kernel.program import cache, compiled, loading
from tracer.kernel.program.compiled import Compiled, Outdated
from tracer.kernel.program.source import Source
from tracer.model.errors import TcpwatchError

SOURCE = Source("int f(void *ctx) { return 0; }", (), Path("/nowhere"))
PROGRAM = json.dumps({"bcc": "0", "maps": {}, "functions": {"f": "", "g": ""}})


class Kernel:
    """One that refuses some functions of any program, and all of a program that was kept if it is `outdated`."""

    def __init__(self, refuses: set[str], *, outdated: bool = False) -> None:
        self.refuses = refuses
        self.outdated = outdated
        self.closed = 0

    def make(self, compiled: Compiled) -> Any:
        kernel = self

        class Program:
            def __init__(self) -> None:
                self.refused = kernel.refuses & compiled.functions.keys()

            def close(self) -> None:
                kernel.closed += 1

        program = Program()
        if compiled.is_cached and not program.refused <= compiled.refused:
            raise Outdated("function g")
        return program

    def prepare(self, _program: Any) -> str:
        if self.outdated:
            self.outdated = False
            raise Outdated("map lost")
        return "prepared"


@pytest.fixture(autouse=True)
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Those that bcc has made."""
    made: list[Source] = []

    def compile_afresh(source: Source, _say: object = None) -> Compiled:
        made.append(source)
        cache.store(source, PROGRAM)
        return compiled.parse_compiled(PROGRAM)

    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setattr("tracer.kernel.program.compiler.compile_afresh", compile_afresh)
    monkeypatch.setattr("tracer.kernel.program.loading.compile_afresh", compile_afresh)
    return made


def load(kernel: Kernel) -> list[str]:
    said: list[str] = []
    assert loading.load(SOURCE, kernel.make, kernel.prepare, said.append)[1] == "prepared"
    return said


def test_what_this_kernel_refuses_of_any_program_is_remembered(compilations: list[Source]) -> None:
    kernel = Kernel({"g"})
    assert [load(kernel) for _ in range(3)] == [[], [], []]
    assert len(compilations) == 1


def test_another_kernel_that_refuses_more_compiles_once(compilations: list[Source]) -> None:
    load(Kernel({"g"}))
    (line,) = load(Kernel({"f", "g"}))
    assert "does not fit this kernel (function g); compiling it again" in line
    assert load(Kernel({"f", "g"})) == load(Kernel({"g"})) == load(Kernel(set())) == []
    assert len(compilations) == 2


def test_a_kept_program_is_closed_before_it_is_compiled_again(compilations: list[Source]) -> None:
    load(Kernel(set()))
    kernel = Kernel(set(), outdated=True)
    (line,) = load(kernel)
    assert "(map lost)" in line
    assert (kernel.closed, len(compilations)) == (1, 2)


def test_an_error_of_the_second_try_is_the_end(compilations: list[Source]) -> None:
    load(Kernel(set()))
    kernel = Kernel(set(), outdated=True)

    def prepare(program: Any) -> None:
        kernel.prepare(program)
        raise TcpwatchError("no")

    with pytest.raises(TcpwatchError, match="no"):
        loading.load(SOURCE, kernel.make, prepare)
    assert (kernel.closed, len(compilations)) == (2, 2)
