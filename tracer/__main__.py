"""The entry point of `tcpwatch` and `python3 -m tracer`. A failed import is reported like any other error.

This file is in the syntax of Python 3.6, so that an older Python than tcpwatch needs can report that.
"""

import sys

OLDEST_PYTHON = (3, 9)  # as requires-python in pyproject.toml


def main() -> None:
    """Run the command. Imports are inside, so that their errors are caught."""
    if sys.version_info < OLDEST_PYTHON:
        version, needed = (".".join(map(str, each[:3])) for each in (sys.version_info, OLDEST_PYTHON))
        sys.exit(
            f"tcpwatch: Python {version} ({sys.executable}) is too old (expected {needed} or newer)\n"
            "Hint: ls /usr/bin/python3*; a newer release of the distribution has a newer Python"
        )
    try:
        from tracer.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(0)
    except Exception as error:
        _fail(error)
    else:
        run()


def _fail(error: BaseException) -> None:
    try:
        from tracer.cli.failures import explain, print_traceback
    except MemoryError:
        sys.exit("tcpwatch: not enough memory\nHint: free -m")
    print_traceback(error)
    known = explain(error, sys.argv[1:])
    sys.exit(f"tcpwatch: {known}\nHint: {known.hint}")


if __name__ == "__main__":
    main()
