"""A /proc that hides processes of other users: check says so where it does, and only there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from changed_host import tcpwatch
from watching import ROOT

WITHOUT_PTRACE = "--bounding-set=-sys_ptrace --inh-caps=-sys_ptrace"
_SEES = """
import os, signal
from tracer.kernel.host import hidden_processes
from tracer.kernel.processes import started_ns
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.setgid(65533)
    os.setuid(65533)
    os.write(writer, b"x")
    signal.pause()
os.read(reader, 1)
print(hidden_processes() or "-", started_ns(child) is not None)
os.kill(child, 9)
"""


@pytest.mark.parametrize(
    ("options", "setpriv", "hides"),
    [
        ("hidepid=0", WITHOUT_PTRACE, "-"),
        ("hidepid=1", WITHOUT_PTRACE, "-"),
        ("hidepid=2,gid=65534", WITHOUT_PTRACE, "hidepid=invisible"),
        ("hidepid=2,gid=65534", f"--groups 65534 {WITHOUT_PTRACE}", "-"),
        ("hidepid=1,gid=65534", WITHOUT_PTRACE, "hidepid=noaccess"),
        ("hidepid=4", WITHOUT_PTRACE, "hidepid=ptraceable"),
        ("hidepid=4", "--clear-groups", "-"),
    ],
)
def test_it_is_said_where_a_process_is_hidden(options: str, setpriv: str, hides: str) -> None:
    script = f'mount -t proc -o {options} proc /proc; exec setpriv {setpriv} "$0" -c "$1"'
    shown = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-ec", script, sys.executable, _SEES],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert shown.stdout.split() == [hides, str(hides == "-")]


def test_check_names_it() -> None:
    hiding = f'mount -t proc -o hidepid=4 proc /proc; set -- setpriv {WITHOUT_PTRACE} "$@"'
    shown = tcpwatch("check", before=hiding)
    (line,) = [each for each in shown.stdout.splitlines() if each.startswith("processes")]
    assert "fallback" in line and "hidepid=ptraceable, no CAP_SYS_PTRACE" in line
    assert "hidepid" not in tcpwatch("check", before="mount -t proc -o hidepid=4 proc /proc").stdout
