"""The kernels that are tested, and their files, extracted from Debian's cloud packages."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from machines.archive import Suite
from machines.errors import MachineError, NotThere
from machines.sources import archive_for

NEWEST = "newest"
"""The newest kernel in trixie-backports."""

SUITES = {
    "5.10": "bullseye-security",
    "6.1": "bookworm-security",
    "6.12": "bookworm-security",
    "6.18": "trixie-backports",
    NEWEST: "trixie-backports",
}
"""The suite of each series. Old suites vanish from the archive."""

_FLAVOUR = "cloud-amd64"


@dataclass(frozen=True)
class Kernel:
    """A kernel's files. release: as `uname -r`. vmlinuz: to boot. tree: has lib/modules."""

    label: str
    release: str
    vmlinuz: Path
    tree: Path


def get(label: str, cache: Path) -> Kernel:
    """The newest kernel of a series, downloaded on first use. Raises NotThere if the archive has none."""
    directory = cache / "kernels" / label
    done = directory / "release"
    if not done.exists():
        suite = _suite(label, cache)
        release = _newest(suite, label)
        shutil.rmtree(directory, ignore_errors=True)
        tree = directory / "root"
        tree.mkdir(parents=True)
        packages = [f"linux-{part}-{release}" for part in ("image", "binary", "modules", "base")]
        suite.unpack([each for each in packages if suite.has(each)], tree)
        _arrange(tree, release)
        done.write_text(release, encoding="utf-8")
    release = done.read_text(encoding="utf-8")
    tree = directory / "root"
    return Kernel(label, release, next(tree.rglob("vmlinuz*")), tree)


def _suite(label: str, cache: Path) -> Suite:
    if label not in SUITES:
        raise MachineError(f"unknown kernel {label!r} (expected one of {', '.join(SUITES)})")
    archive_for(SUITES[label])  # a machine without Debian sources is an error, not a kernel that is gone
    try:
        return Suite(SUITES[label], cache)
    except MachineError as error:
        raise NotThere(str(error)) from error


def _newest(suite: Suite, label: str) -> str:
    series = r"\d+\.\d+" if label == NEWEST else re.escape(label)
    pattern = re.compile(rf"linux-image-({series}\.\d[^-]*(?:-\d+)?-{_FLAVOUR})")
    releases = [match[1] for name in suite.names("linux-image-") if (match := pattern.fullmatch(name))]
    for release in sorted(releases, key=_as_version, reverse=True):
        if _is_complete(suite, release):
            return release
    raise NotThere(f"{suite.name} has no kernel {label} ({_FLAVOUR}) any more")


def _is_complete(suite: Suite, release: str) -> bool:
    """Whether the archive still has the modules of an image: signed images outlive them."""
    image = f"linux-image-{release}"
    return suite.has(image) and all(
        suite.has(f"linux-{part}-{release}")
        for part in ("modules", "binary")
        if f"linux-{part}-{release}" in suite.depends(image)
    )


def _as_version(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _arrange(tree: Path, release: str) -> None:
    """Give packages from before and after the merge of /lib into /usr the same layout."""
    merged = tree / "usr/lib"
    merged.mkdir(parents=True, exist_ok=True)
    if (tree / "lib/modules").is_dir():
        shutil.move(tree / "lib/modules", merged / "modules")
    shutil.rmtree(tree / "lib", ignore_errors=True)
    (tree / "lib").symlink_to("usr/lib")
    modules = merged / "modules" / release
    if not (modules / "kernel").is_dir() or next(tree.rglob("vmlinuz*"), None) is None:
        raise MachineError(f"the packages of {release} have no modules or no vmlinuz")
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    subprocess.run(["depmod", "--basedir", tree, release], check=True)
