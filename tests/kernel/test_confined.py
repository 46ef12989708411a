"""What works in a container: with the capabilities of docs/requirements.md, and in a PID namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from acting import act
from capabilities import least, with_only
from watching import PATIENCE_S, ROOT, Json

from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client

PORT = 3306


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(ttl_s=60) as made:
        yield made


def rows_of(done: subprocess.CompletedProcess[str]) -> list[Json]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def checked(before: Sequence[str]) -> dict[str, Json]:
    """The findings of `tcpwatch check`."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "tracer", "check", "--json"], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["what"]: each for each in json.loads(done.stdout)["findings"]}


def test_sockets_without_cap_sys_admin(lab: Lab) -> None:
    """No other network namespace can be entered. What processes hold there is found through their open files."""
    filters = ("--netns", f"{lab.client.netns},{lab.server.netns}", "--port", PORT, "--json")
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        everything = rows_of(act("sockets", *filters))
        done = act("sockets", *filters, before=with_only(least()))
        found = rows_of(done)
        assert {row["netns"] for row in found} == {lab.client.netns, lab.server.netns}
        assert [row for row in found if client.pid in row["pids"]]
        still = ("netns", "lport", "rport", "state", "pids", "keepalive", "keepalive_idle_s", "inode")
        assert sorted([[row[name] for name in still] for row in found]) == sorted(
            [[row[name] for name in still] for row in everything]
        )
    assert done.stderr.startswith(
        "tcpwatch: connections that no process holds are missing from 2 other network namespaces, "
        "because entering one needs CAP_SYS_ADMIN\n"
    )


def test_all_namespaces_without_cap_sys_admin(lab: Lab) -> None:
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        found = rows_of(act("sockets", "--json", before=with_only(least())))
    assert [row for row in found if client.pid in row["pids"]]


def test_the_own_namespace_is_read_without_cap_sys_admin(lab: Lab) -> None:
    """Also what no process holds, and without a remark."""
    inside = ["nsenter", f"--net=/proc/{lab.client.pid}/ns/net", *with_only(least())]
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT) as client:
        done = act("sockets", "--netns", lab.client.netns, "--json", before=inside)
        assert [row["pids"] for row in rows_of(done)] == [[client.pid]]
    assert "CAP_SYS_ADMIN" not in done.stderr


def test_acting_without_cap_sys_admin(lab: Lab) -> None:
    filters = ("--netns", lab.client.netns, "--rport", PORT)
    capabilities = with_only(least() | {"net_admin"})
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT):
        (changed,) = rows_of(act("protect", *filters, "--idle", "50s", "--json", before=capabilities))
        assert changed["result"] == "changed"
        (probed,) = rows_of(act("probe", *filters, "--json", before=capabilities))
        assert probed["result"] == "alive"
        connected = act("probe", *filters, "--connect", "--json", before=capabilities)
        (row,) = [each for each in map(json.loads, connected.stdout.splitlines()) if each["action"] == "connect"]
        assert (row["result"], row["error"]) == ("failed", "EPERM")
        ended = act("end", *filters, "--yes", before=capabilities)
        assert ended.returncode == 1 and "cannot be entered: Operation not permitted" in ended.stderr
        assert "\nHint: that needs CAP_SYS_ADMIN" in ended.stderr
        assert rows_of(act("sockets", *filters, "--json")), "it was not ended"


def test_check_names_what_lacks(lab: Lab) -> None:
    whole = checked([])
    assert {whole[what]["status"] for what in ("processes", "networks")} == {"ok"}
    confined = checked(with_only(least()))
    assert (confined["networks"]["status"], confined["processes"]["status"]) == ("fallback", "ok")
    assert "CAP_SYS_ADMIN" in confined["networks"]["detail"]


@pytest.mark.parametrize("mounts", [["--mount-proc"], []], ids=["own /proc", "the host's /proc"])
def test_check_warns_of_a_foreign_pid_namespace(mounts: list[str]) -> None:
    found = checked(["unshare", "--pid", "--fork", "--kill-child", *mounts])
    assert found["networks"]["detail"] == "of processes in this PID namespace"
    processes = found["processes"]
    assert processes["status"] == "missing" and "not the host's PID namespace" in processes["detail"]
    assert "hostPID: true" in processes["hint"] and "docker run --pid=host" in processes["hint"]


def test_what_a_foreign_pid_namespace_costs(lab: Lab) -> None:
    """As `check` has it: the walk does not find what processes outside hold."""
    filters = ("--port", PORT, "--json")
    with Server(lab.server, SERVER, PORT), embedded_client(lab.client, SERVER, PORT):
        assert rows_of(act("sockets", *filters))
        alone = act("sockets", *filters, before=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        assert not [row for row in rows_of(alone) if row["pids"]]
    assert "tcpwatch: this PID namespace hides processes of the host, and their connections" in alone.stderr
