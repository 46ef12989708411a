"""Files of a node that name its containers, in a directory of a test."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tracer.kernel.node_files import NodeFiles

A, B = "0f3a" * 16, "9bc1" * 16
"""Ids of containers."""
UID = "12345678-9abc-def0-1234-56789abcdef0"
STATIC = "d41d8cd98f00b204e9800998ecf8427e"
"""UIDs of pods: of the API server, and of a static pod."""


class Node:
    """A node's file system, all of whose files belong to who runs the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = NodeFiles(root, os.getuid())

    def log(self, name: str) -> None:
        path = self.root / "var/log/containers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/nowhere")

    def pod(self, name: str) -> None:
        (self.root / "var/log/pods" / name).mkdir(parents=True)

    def docker(self, container: str, config: object) -> Path:
        return self.write(f"var/lib/docker/containers/{container}/config.v2.json", config)

    def podman(self, config: object, file: str = "containers.json", driver: str = "overlay") -> Path:
        return self.write(f"var/lib/containers/storage/{driver}-containers/{file}", config)

    def write(self, place: str, content: object) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path
