"""Load a source into the kernel: from the cache if possible, else compiled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

from tracer.kernel.program import cache
from tracer.kernel.program.compiled import Compiled, Outdated, add_refused
from tracer.kernel.program.compiler import compile_afresh, compile_source, ignore
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import Source

Prepared = TypeVar("Prepared")


def load(
    source: Source,
    make: Callable[[Compiled], Program],
    prepare: Callable[[Program], Prepared],
    say: Callable[[str], None] = ignore,
) -> tuple[Program, Prepared]:
    """Load and prepare a program. Returns it, and the result of `prepare`.

    make: Program with its options. prepare: configures and attaches it. A cached program that the kernel refuses is
    removed and compiled again, once. say: takes a line for the user if that happens, or if the program cannot be
    cached. Raises TcpwatchError, and leaves nothing in the kernel.
    """
    compiled = compile_source(source, say)
    try:
        program, prepared = _started(compiled, make, prepare)
    except Outdated as error:
        cache.remove(source)
        say(f"the compiled program in {cache.directory()} does not fit this kernel ({error}); compiling it again")
        compiled = compile_afresh(source, say)
        program, prepared = _started(compiled, make, prepare)
    if compiled.refused != program.refused:
        _keep_refused(source, program.refused)
    return program, prepared


def _started(
    compiled: Compiled, make: Callable[[Compiled], Program], prepare: Callable[[Program], Prepared]
) -> tuple[Program, Prepared]:
    program = make(compiled)
    try:
        return program, prepare(program)
    except BaseException:
        program.close()
        raise


def _keep_refused(source: Source, functions: Collection[str]) -> None:
    """Add to the cached program the functions that the kernel refuses, so that it is not compiled again for them."""
    cached = cache.load(source)
    if cached is not None:
        with suppress(cache.NotCached):
            cache.store(source, add_refused(cached, functions))
