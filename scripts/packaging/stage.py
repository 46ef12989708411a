"""Put the files of a package below a directory: stage.py TREE DIRECTORY. debian/rules and the rpm spec call it.

They are those of scripts/install, at the paths of a package. Licences, documents and compiled modules are not here:
each packaging system has tools and places of its own for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from installation import copy, files, unit
from installation.errors import InstallError
from installation.places import Places

HOME = "usr/share/tcpwatch"
"""Not a directory of modules: another package has the name `tracer`."""
_INSTALLED, _PACKAGED = b"/usr/local/bin/tcpwatch", b"/usr/bin/tcpwatch"


def stage(tree: Path, directory: Path) -> None:
    """Write all files below `directory`. Raises InstallError if the copy does not run, OSError if it cannot write."""
    home = directory / HOME
    home.mkdir(parents=True)
    command = copy.lay_out(home, tree)
    (home / "library/tracer/bpf/LICENSE").unlink()
    files.settle_tree(home, programs=(command,))
    places = Places(directory)
    _write(_packaged(places, places.manual), (tree / "docs/tcpwatch.8").read_bytes())
    for shell, path in places.completions.items():
        _write(_packaged(places, path), copy.completion(home, shell))
    for each in unit.UNITS:
        text = (tree / "scripts" / each.name).read_bytes()
        if _INSTALLED not in text:
            raise InstallError(
                f"{each.name} does not start /usr/local/bin/tcpwatch", f"cat {tree}/scripts/{each.name}"
            )
        _write(_packaged(places, each.path(places)), text.replace(_INSTALLED, _PACKAGED))
    link = _packaged(places, places.command)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(command, link.parent))


def _packaged(places: Places, path: Path) -> Path:
    """Where a package has what scripts/install puts below usr/local."""
    return places.root / "usr" / path.relative_to(places.root / "usr/local")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 1 if it failed."""
    tree, directory = map(Path, arguments)
    os.umask(0o022)
    try:
        stage(tree.resolve(), directory.resolve())
    except InstallError as error:
        print(f"stage.py: {error}\nHint: {error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
