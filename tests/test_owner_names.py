"""The names of owners: from the socket's cgroup, the process and files of the node, without holding events up."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from builders import event
from node_tree import STATIC, UID, A, B, Node

from tracer.kernel import owner_names as module
from tracer.kernel.holders import Held
from tracer.kernel.node_files import NodeNames
from tracer.kernel.owner_names import MAX_LOOKS, NEVER, RETRY_NS, NameFinder
from tracer.kernel.owners import Owners
from tracer.kernel.process_cgroups import hostname_in_pod
from tracer.kernel.processes import Process
from tracer.kernel.searches import RENEW_NS
from tracer.kernel.wire import Owner
from tracer.model.events import Event

KUBEPODS = "/kubepods.slice/kubepods-burstable.slice"
POD = f"{KUBEPODS}/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
WEB, DB = POD + f"/cri-containerd-{A}.scope", f"/system.slice/docker-{B}.scope"
PATHS = {1: "/", 2: WEB, 3: DB, 4: "/system.slice/nginx.service", 5: "/system.slice/docker.socket", 6: POD}
PID = 42


class Host:
    """Processes, files of a node, and a clock."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.node = Node(root / "node")
        self.now_ns = 1_000_000_000_000
        self.v2()

    def v2(self) -> None:
        self._write("self", "cgroup", "0::/\n")

    def v1(self) -> None:
        self._write("self", "cgroup", "1:name=systemd:/\n0::/\n")

    def process(self, pid: int, cgroup: str, environ: str = "", ticks: int = 1) -> None:
        self._write(str(pid), "cgroup", cgroup)
        self._write(str(pid), "environ", environ.replace(" ", "\0"))
        self._write(str(pid), "stat", f"{pid} (php) S {' 0' * 18} {ticks} 0\n")

    def _write(self, directory: str, file: str, content: str) -> None:
        (self.proc / directory).mkdir(parents=True, exist_ok=True)
        (self.proc / directory / file).write_text(content)

    def finder(self) -> NameFinder:
        return NameFinder(PATHS.get, files=self.node.files, proc=self.proc, clock_ns=lambda: self.now_ns)

    @staticmethod
    def _holders(inodes: Collection[int] | None) -> Held:
        return {7: (Process(PID, "php", None),)}

    def owners(self) -> Owners:
        return Owners(
            self._holders,
            proc=self.proc,
            clock_ns=lambda: self.now_ns,
            cgroup_path=PATHS.get,
            files=self.node.files,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def names(finder: NameFinder, cgroup: int, pid: int = 0) -> dict[str, str]:
    return {name: value for name, value in finder.now(cgroup, pid).fields.items() if name != "cgroup"}


def test_from_the_cgroup_and_files_of_the_node(host: Host) -> None:
    host.node.log(f"web-7d9f_prod_nginx-{A}.log")
    host.node.docker(B, {"Name": "/db"})
    finder = host.finder()
    assert names(finder, 2) == {
        "container": A, "container_name": "nginx", "pod": "web-7d9f", "pod_namespace": "prod",
    }  # fmt: skip
    assert names(finder, 3) == {"container": B, "container_name": "db"}
    assert finder.now(3, 0).fields["cgroup"] == DB
    assert names(finder, 4) == {"unit": "nginx.service"}
    assert names(finder, 1) == names(finder, 0) == {}


def test_a_service_needs_no_thread(host: Host) -> None:
    host.process(PID, "0::/user.slice/user-0.slice/session-3.scope\n")
    known = host.finder().of(4, PID, host.now_ns)
    assert known.until_ns == NEVER and known.fields["unit"] == "nginx.service"


def test_the_process_where_systemd_made_its_socket(host: Host) -> None:
    host.process(PID, "0::/system.slice/docker.service\n")
    assert names(host.finder(), 5, PID) == {"unit": "docker.service"}
    assert names(host.finder(), 5) == {"unit": "docker.socket"}


def test_the_process_where_the_sockets_cgroup_is_not_known(host: Host) -> None:
    host.process(PID, f"0::{DB}\n")
    assert names(host.finder(), 0, PID) == {"container": B}


def test_the_hierarchies_of_cgroup_v1(host: Host) -> None:
    """The unified one, where the socket was made, may be that of the container's runtime."""
    host.process(PID, f"9:memory:/docker/{B}\n1:name=systemd:/docker/{B}\n0::/system.slice/nginx.service\n")
    assert names(host.finder(), 4, PID) == {"unit": "nginx.service"}
    host.v1()
    assert names(host.finder(), 4, PID) == {"container": B}
    host.process(PID, "9:memory:/\n1:name=systemd:/user.slice/user-0.slice/session-3.scope\n")
    assert names(host.finder(), 4, PID) == {"unit": "nginx.service"}
    assert names(host.finder(), 1, PID) == {"unit": "session-3.scope"}


def test_another_process_with_the_pid(host: Host) -> None:
    host.process(PID, "0::/system.slice/a.service\n", ticks=100)
    finder = host.finder()
    assert names(finder, 1, PID) == {"unit": "a.service"}
    host.process(PID, "0::/system.slice/b.service\n", ticks=200)
    host.now_ns += RENEW_NS
    first = finder.of(1, PID, host.now_ns)
    assert "unit" not in first.fields
    assert names(finder, 1, PID) == {"unit": "b.service"}


def test_the_process_is_looked_at_once_as_long_as_it_runs(host: Host) -> None:
    host.process(PID, "0::/system.slice/a.service\n")
    finder = host.finder()
    assert names(finder, 1, PID) == {"unit": "a.service"}
    (host.proc / str(PID) / "cgroup").unlink()
    host.now_ns += RENEW_NS
    assert finder.of(1, PID, host.now_ns).fields["unit"] == "a.service"
    (host.proc / str(PID) / "stat").unlink()
    host.now_ns += RENEW_NS
    assert finder.of(1, PID, host.now_ns, is_gone=True).fields["unit"] == "a.service"


def test_a_log_that_is_linked_after_the_start(host: Host) -> None:
    finder = host.finder()
    assert names(finder, 2) == {"container": A}
    host.node.pod(f"prod_web-7d9f_{UID}")
    assert names(finder, 2) == {"container": A}
    host.now_ns += RETRY_NS
    assert finder.of(2, 0, host.now_ns).fields.keys() == {"cgroup", "container"}
    assert finder.settle(60)
    assert names(finder, 2) == {"container": A, "pod": "web-7d9f", "pod_namespace": "prod"}
    host.node.log(f"web-7d9f_prod_nginx-{A}.log")
    host.now_ns += 2 * RETRY_NS
    finder.of(2, 0, host.now_ns)
    assert finder.settle(60)
    assert names(finder, 2)["container_name"] == "nginx"
    assert finder.of(2, 0, host.now_ns).until_ns == NEVER


def test_looks_for_what_is_never_there_end(host: Host) -> None:
    finder = host.finder()
    looks = 0
    while finder.of(3, 0, host.now_ns).until_ns != NEVER:
        assert finder.settle(60)
        looks += 1
        host.now_ns += RETRY_NS << looks
        assert looks <= MAX_LOOKS + 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ("PATH=/bin HOSTNAME=web-7d9f", "web-7d9f"),
        ("HOSTNAME=web-7d9f HOSTNAME=other", "web-7d9f"),
        ("MYHOSTNAME=web", None),
        ("HOSTNAME=", None),
        ("HOSTNAME=web\x1b[2J", None),
        ("HOSTNAME=../x", None),
        (f"HOSTNAME={'a' * 254}", None),
        (f"HOSTNAME={os.uname().nodename.lower()}", None),
        ("", None),
    ],
)
def test_the_containers_own_word(host: Host, environ: str, expected: str | None) -> None:
    host.process(PID, f"0::{WEB}\n", environ)
    assert names(host.finder(), 2, PID).get("pod") == expected
    assert hostname_in_pod(PID, STATIC, host.proc) is None, "of another pod"


def test_the_containers_own_word_counts_least(host: Host) -> None:
    host.process(PID, f"0::{WEB}\n", "HOSTNAME=liar")
    host.node.pod(f"prod_web-7d9f_{UID}")
    assert names(host.finder(), 2, PID)["pod"] == "web-7d9f"
    # Outside a pod it counts nothing.
    host.process(PID, f"0::{DB}\n", "HOSTNAME=liar")
    assert "pod" not in names(host.finder(), 3, PID)


@pytest.fixture
def slow(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that does not answer before the event is set."""
    answers = threading.Event()

    def of_container(container: str) -> NodeNames:
        answers.wait(60)
        return NodeNames(container_name="db")

    monkeypatch.setattr(host.node.files, "of_container", of_container)
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    yield answers
    answers.set()


def complete(owners: Owners, cgroup: int, **options: bool) -> Event:
    (seen,) = owners.complete((event("retransmit", sock="aa"), Owner(7, cgroup, 0, bytes(16))), **options)
    return seen


def test_a_slow_disk_holds_no_event_up(host: Host, slow: threading.Event) -> None:
    owners = host.owners()
    for _ in range(3):
        seen = complete(owners, 3)
        assert (seen.container, seen.container_name, seen.comm) == (B, None, "php")
    slow.set()
    assert owners.settle_names(60)
    assert complete(owners, 3).container_name == "db"


def test_a_slow_disk_holds_a_list_up_once(host: Host, slow: threading.Event) -> None:
    finder = host.finder()
    assert names(finder, 3) == names(finder, 3) == {"container": B}


def test_the_first_event_has_the_names_where_the_disk_is_quick(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.kernel.owners.NAMES_WAIT_S", 60)
    host.node.docker(B, {"Name": "/db"})
    owners = host.owners()
    owners.search_all()
    seen = complete(owners, 3)
    assert (seen.container_name, seen.pid) == ("db", PID)
    known = [name for name, value in seen.known().items() if value is not None]
    assert known[-5:] == ["pid", "comm", "cgroup", "container", "container_name"]


def test_an_event_of_a_full_batch_waits_for_nothing(host: Host, slow: threading.Event) -> None:
    owners = host.owners()
    assert complete(owners, 3, may_wait=False).container == B
    assert not owners.settle_names(0)
