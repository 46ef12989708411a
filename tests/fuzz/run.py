"""Fuzz one target with atheris, guided by coverage.

For as long as you like (^C ends it; a crash prints and keeps its input):

    .venv/bin/python tests/fuzz/run.py lines -max_total_time=3600

Targets are those of targets.py; what begins with - is for libFuzzer. An input that crashed belongs into
tests/fuzz/regressions/TARGET, where every run of the tests tries it again; one of `fields` as the recording that
stories.story makes of it, because that may come to make another.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main() -> None:
    """Read the arguments, and never return: libFuzzer ends the process."""
    import atheris

    target, *options = sys.argv[1:]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    with atheris.instrument_imports(include=["tracer"]):
        from targets import TARGETS
    from seeds import seeds

    corpus = Path(tempfile.mkdtemp(prefix=f"tcpwatch-{target}-"))
    for number, data in enumerate(seeds(target)):
        (corpus / f"seed-{number:02}").write_bytes(data)
    if not any(option.startswith("-artifact_prefix=") for option in options):
        options.append(f"-artifact_prefix={Path(tempfile.gettempdir())}/{target}-")
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
