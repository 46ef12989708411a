"""Source → compiled program: by bcc, or from where one of the same source was kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tracer.errors import TcpwatchError
from tracer.kernel import cache, compiled
from tracer.kernel.compiled import Compiled
from tracer.kernel.source import Source, bpf_directory

_PROCESS = Path(__file__).with_name("bcc_process.py")
_GET_BCC = (
    "sudo apt-get install python3-bpfcc, and run tcpwatch with /usr/bin/python3 (sudo scripts/install does both)"
)


class ProgramError(TcpwatchError):
    """The kernel or the compiler turned the program down; `log` is what they said."""

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(message, hint="tcpwatch check")
        self.log = log


def compile_source(source: Source) -> Compiled:
    """The same source is compiled once, and kept. Raises what `compile_afresh` does."""
    kept = cache.kept(source)
    if kept is not None:
        try:
            return compiled.of_json(kept)
        except compiled.InvalidProgram:  # cut short, or of another version
            pass
    return compile_afresh(source)


def compile_afresh(source: Source) -> Compiled:
    """By bcc, whatever was kept. Raises TcpwatchError without bcc, ProgramError where the compiler fails."""
    answer, said = _ask(source)
    try:
        program = compiled.of_json(answer)
    except compiled.InvalidProgram as error:
        raise _failure(answer, said) from error
    cache.keep(source, answer)
    return program


def bcc_version() -> str:
    """Of the distribution's bcc. Raises TcpwatchError where it is missing."""
    answer, said = _ask(Source("", (), bpf_directory()))
    try:
        return str(json.loads(answer)["bcc"])
    except (ValueError, KeyError) as error:
        raise _failure(answer, said) from error


def _ask(source: Source) -> tuple[str, str]:
    """What bcc_process.py answers, and what the compiler said."""
    try:
        run = subprocess.run(
            [sys.executable, "-I", str(_PROCESS)],
            input=json.dumps({"text": source.text, "cflags": source.cflags}),
            capture_output=True,
            # bcc wants a directory of kernel headers, and takes it from here before any other place.
            env={**os.environ, "BCC_KERNEL_SOURCE": str(source.directory)},
            encoding="utf-8",
            errors="replace",
            check=False,
            start_new_session=True,  # ^C is ours to answer, when it is done
        )
    except OSError as error:
        raise TcpwatchError(
            f"no process could be started to compile in: {error.strerror}", hint="free -m; ulimit -u"
        ) from error
    return run.stdout, run.stderr


def _failure(answer: str, said: str) -> TcpwatchError:
    try:
        why: dict[str, str] = json.loads(answer)
    except ValueError:
        return ProgramError("bcc could not compile the program: it ended without an answer", log=said)
    if "missing" in why:
        return TcpwatchError(f"the Python package bcc is missing ({why['missing']})", hint=_GET_BCC)
    if "foreign" in why:
        return TcpwatchError(
            f"the Python package bcc in {why['foreign']} is PyPI's, which is another project",
            hint=f"{sys.executable} -m pip uninstall bcc; {_GET_BCC}",
        )
    return ProgramError(f"bcc could not compile the program: {why.get('error')}", log=said)
