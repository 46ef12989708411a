"""An image that buildah builds, as podman does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from debian_root import Mounts


class Builder:
    """buildah with images of its own, in memory."""

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts
        directory = mounts.directory / "buildah"
        self._buildah = ("buildah", "--root", directory / "images", "--runroot", directory / "run")

    def add_base(self, tree: Path, name: str) -> None:
        """Make an image of this tree, so that no registry is asked for that name."""
        container = self._run("from", "scratch")
        self._run("copy", "--quiet", container, str(tree), "/")
        self._run("commit", "--quiet", "--rm", container, name)

    def build(self, options: Sequence[str], context: Path) -> None:
        """Do what `podman build` does with these options, with the network of this host."""
        self._run("bud", "--isolation", "chroot", "--network", "host", "--pull-never", *options, str(context))

    def entrypoint(self, name: str) -> list[str]:
        """What the image starts."""
        shown = json.loads(self._run("inspect", "--type", "image", name))
        return [str(word) for word in shown["OCIv1"]["config"]["Entrypoint"]]

    def mount(self, name: str) -> Path:
        """The files of the image."""
        return Path(self._run("mount", self._run("from", "--pull-never", name)))

    def _run(self, *words: str) -> str:
        return self._mounts.run(*self._buildah, *words).strip()
