"""The entry point of `tcpwatch` and `python3 -m tracer`. A failed import is reported like any other error."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. Imports are inside, so that their errors are caught."""
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
