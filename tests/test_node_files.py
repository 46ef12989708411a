"""Names of containers in files of the node: what is read, and what is not opened."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from node_tree import STATIC, UID, A, B, Node

from tracer.kernel.node_files import MAX_DOCKER_BYTES, NodeFiles, NodeNames


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_container_of_a_pod(node: Node) -> None:
    node.log(f"other_prod_app-{B}.log")
    node.log(f"web-7d9f-x2x.1_prod_nginx-sidecar-{A}.log")
    assert node.files.of_pod(UID, A) == NodeNames("web-7d9f-x2x.1", "prod", "nginx-sidecar")


@pytest.mark.parametrize("uid", [UID, STATIC])
def test_a_pod_by_its_uid(node: Node, uid: str) -> None:
    """The sandbox has no log of its own, and a log whose name was too long is truncated."""
    node.pod(f"kube-system_etcd-node1_{uid}")
    node.pod(f"prod_web_{uid[:-1]}1")
    assert node.files.of_pod(uid, A) == NodeNames("etcd-node1", "kube-system")
    assert node.files.of_pod(uid, None) == NodeNames("etcd-node1", "kube-system")


@pytest.mark.parametrize(
    "name",
    [f"a_b_c-{A}", f"a_b_\x1b-{A}.log", f"A_b_c-{A}.log", "x", f"_b_c-{A}.log"],
)
def test_logs_with_another_name(node: Node, name: str) -> None:
    node.log(name)
    assert node.files.of_pod(UID, A) == NodeNames()


def test_docker(node: Node) -> None:
    node.docker(B, {"Name": "/other"})
    node.docker(A, {"ID": A, "Name": "/shop_web.1", "Config": {"Env": ["PATH=/bin"]}})
    assert node.files.of_container(A) == NodeNames(container_name="shop_web.1")


@pytest.mark.parametrize("file", ["containers.json", "volatile-containers.json"])
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_podman(node: Node, file: str, driver: str) -> None:
    node.podman([{"id": B, "names": ["other"]}, {"id": A, "names": ["web", "web2"]}], file, driver)
    assert node.files.of_container(A) == NodeNames(container_name="web")


CONTENTS: tuple[Any, ...] = (
    "", "{", "[]", "[[]]", "null", '"x"', "\0", "[" * 200_000, "NaN", {"Name": 7}, {"Name": ""}, {"Name": "/"},
    {"Name": "/../../etc/passwd"}, {"Name": "/\x1b[2J"}, {"Name": "/" + "a" * 300}, {"Name": ["/web"]},
    [{"id": A}], [{"id": A, "names": None}], [{"id": A, "names": []}], [{"id": A, "names": [7]}], [{"id": [A]}],
    [{"id": A, "names": ["a b"]}], [None, 7],
)  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
def test_files_of_another_form(node: Node, content: object) -> None:
    node.docker(A, content)
    node.podman(content)
    assert node.files.of_container(A) == NodeNames()


def test_bytes_that_are_no_text(node: Node) -> None:
    node.docker(A, "").write_bytes(b'{"Name": "/\xff"}')
    assert node.files.of_container(A) == NodeNames()


def test_a_file_that_is_too_long(node: Node) -> None:
    path = node.docker(A, {"Name": "/web", "x": "x" * MAX_DOCKER_BYTES})
    assert node.files.of_container(A) == NodeNames()
    path.write_text(json.dumps({"Name": "/web"}))
    assert node.files.of_container(A).container_name == "web"


@pytest.mark.parametrize("container", ["", "..", "../..", "/etc", "web", A[:63], f"{A}/..", f"{A}\n", f"\0{A}"])
def test_only_an_id_becomes_a_path(node: Node, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda path, *_, **__: opened.append(path))
    assert node.files.of_container(container) == NodeNames()
    assert not opened


def test_links_below_the_directory_are_not_followed(node: Node) -> None:
    secret = node.write("secret.json", {"Name": "/secret"})
    path = node.docker(A, "")
    path.unlink()
    path.symlink_to(secret)
    assert node.files.of_container(A) == NodeNames()
    elsewhere = node.write("elsewhere/config.v2.json", {"Name": "/secret"}).parent
    (path.parent.parent / B).symlink_to(elsewhere)
    assert node.files.of_container(B) == NodeNames()


def test_the_directory_itself_may_be_a_link(node: Node) -> None:
    node.write(f"data/containers/{A}/config.v2.json", {"Name": "/web"})
    (node.root / "var/lib").mkdir(parents=True)
    (node.root / "var/lib/docker").symlink_to("../../data")
    assert node.files.of_container(A) == NodeNames(container_name="web")


def test_a_pipe_holds_nothing_up(node: Node) -> None:
    path = node.docker(A, "")
    path.unlink()
    os.mkfifo(path)
    found: list[NodeNames] = []
    reader = threading.Thread(target=lambda: found.append(node.files.of_container(A)), daemon=True)
    reader.start()
    reader.join(60)
    assert found == [NodeNames()]


def test_what_others_can_write_names_nothing(node: Node) -> None:
    path = node.docker(A, {"Name": "/web"})
    node.log(f"web_prod_app-{A}.log")
    for each in (path, path.parent.parent, node.root / "var/log/containers"):
        before = each.stat().st_mode
        each.chmod(before | 0o002)
        assert NodeNames() in (node.files.of_container(A), node.files.of_pod(UID, A)), each
        each.chmod(before)
    assert node.files.of_container(A).container_name == "web"
    others = NodeFiles(node.root, os.getuid() + 1)
    assert others.of_container(A) == others.of_pod(UID, A) == NodeNames()


def test_a_node_without_any_of_them(node: Node) -> None:
    assert node.files.of_container(A) == node.files.of_pod(UID, A) == NodeNames()
