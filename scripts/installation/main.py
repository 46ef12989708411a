"""Install or remove: main.py [--remove] -- TREE ROOT."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from installation import copy, files, unit
from installation.errors import InstallError
from installation.places import Places, check_directories, refuse_foreign


def install(tree: Path, places: Places) -> None:
    """Make all parts beside the installed ones, then put them in place at once."""
    refuse_foreign(places)
    for warning in check_directories(places):
        _say(warning)
    for directory in places.parents():
        files.make_directories(directory)
    with _alone(places), ExitStack() as leftovers:
        fresh = Path(tempfile.mkdtemp(prefix=files.STAGED, dir=places.home.parent))
        leftovers.callback(shutil.rmtree, fresh, ignore_errors=True)
        shipped = {each: (tree / "scripts" / each.name).read_bytes() for each in unit.UNITS}
        for each, content in shipped.items():
            each.record(fresh).write_text(f"{unit.digest(content)}\n", encoding="ascii")
        copy.fill(fresh, tree, places)
        version = copy.try_out(fresh)
        completions = {path: copy.completion(fresh, shell) for shell, path in places.completions.items()}
        kept = [each for each, content in shipped.items() if each.is_edited(places, content)]
        targets = {each: each.shipped_copy(places) if each in kept else each.path(places) for each in shipped}
        staged = {
            places.manual: files.stage_file(places.manual, (tree / "docs/tcpwatch.8").read_bytes()),
            **{targets[each]: files.stage_file(targets[each], content) for each, content in shipped.items()},
            places.command: files.stage_link(places.command, places.home / "bin/tcpwatch"),
            **{path: files.stage_file(path, script) for path, script in completions.items()},
        }
        for path in staged.values():
            leftovers.callback(path.unlink, missing_ok=True)
        with files.uninterrupted():
            files.put_in_place(fresh, places.home)
            for target, path in staged.items():
                path.replace(target)
            for each in shipped:
                if each not in kept:
                    each.shipped_copy(places).unlink(missing_ok=True)
    for each in kept:
        _say(f"kept {each.path(places)}, which was edited; the new one is {targets[each]}")
    for done in unit.renew(places):
        _say(done)
    command = "tcpwatch" if places.is_system else shlex.quote(str(places.command))
    where = "" if places.is_system else f" --prefix {shlex.quote(str(places.root))}"
    _say(f"installed {version}: sudo {command} (to remove it: sudo scripts/install --remove{where})")


def remove(tree: Path, places: Places) -> None:
    """Stop the unit, then remove what `install` installed. Recordings and the administrator's settings stay."""
    refuse_foreign(places)
    if not places.home.parent.is_dir():
        _say(f"nothing is installed in {places.root}")
        return
    with _alone(places):
        for done in unit.stop(places):
            _say(done)
        shipped = {each: (tree / "scripts" / each.name).read_bytes() for each in unit.UNITS}
        edited = [each for each, content in shipped.items() if each.is_edited(places, content)]
        with files.uninterrupted():
            gone = list(_take_away(places, edited))
        unit.forget(places)
    _say(f"removed {', '.join(map(str, gone))}" if gone else f"nothing was installed in {places.root}")
    for path in (*(path for each in unit.UNITS for path in each.overrides(places)), places.settings):
        if os.path.lexists(path):
            _say(f"left {path}, which is yours")
    for directory in places.recordings:
        if directory.is_dir() and any(directory.iterdir()):
            _say(f"left the recordings in {directory}")


def _take_away(places: Places, edited: Sequence[unit.Unit]) -> Iterator[Path]:
    for each in edited:
        path = each.path(places)
        kept = path.with_name(f"{path.name}.edited")
        path.replace(kept)
        _say(f"kept your edited {path} as {kept}")
    units = [path for each in unit.UNITS for path in (each.path(places), each.shipped_copy(places))]
    for path in (places.command, places.manual, *units, *places.completions.values()):
        if os.path.lexists(path):
            path.unlink()
            yield path
    for directory in (places.home, places.cache):
        if directory.is_dir() and not directory.is_symlink():
            if old := files.set_aside(directory):
                shutil.rmtree(old)
            yield directory


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    """Lock out other installations, and remove what a killed one left."""
    with files.locked(places.home.parent):
        refuse_foreign(places)
        for directory in (*places.parents(), places.cache.parent):
            files.sweep(directory)
        yield


def _say(message: str) -> None:
    print(f"tcpwatch: {message}", file=sys.stderr, flush=True)


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Exit status: 0, 1 if it failed, 130 if it was interrupted."""
    *options, tree, root = sys.argv[1:]
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        (remove if "--remove" in options else install)(Path(tree), Places(Path(root)))
    except InstallError as error:
        _say(str(error))
        print(f"Hint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        place = files.without_staged(Path(error.filename or root))
        directory = shlex.quote(str(place if place.is_dir() else place.parent))
        _say(f"{place}: {error.strerror}")
        print(f"Hint: df -h {directory}; df -i {directory}; ls -ld {directory}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
