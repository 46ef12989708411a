"""beanstalkd and the PHP worker in their namespaces."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Client, Process

_PUT = """
import socket, sys
with socket.create_connection((sys.argv[1], 11300)) as queue:
    job = sys.argv[2].encode()
    queue.sendall(b"put 0 0 600 %d\\r\\n%s\\r\\n" % (len(job), job))
    print(queue.recv(100).decode())
"""


class Beanstalkd(Process):
    """A queue on 11300 of the server's namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        super().__init__(
            namespace.popen(
                ["setpriv", "--pdeathsig", "KILL", "beanstalkd", "-l", SERVER, "-p", "11300"],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
        tcp = Path(f"/proc/{namespace.pid}/net/tcp")
        wait_until(lambda: f":{11300:04X} 00000000:0000 0A" in tcp.read_text(), 60, "beanstalkd listens")

    def __enter__(self) -> Beanstalkd:
        return self

    def put(self, job: str) -> None:
        """Put a job, from the server's own side of the firewall."""
        assert "INSERTED" in self._namespace.run("/usr/bin/python3", "-c", _PUT, SERVER, job)


def php_worker(lab: Lab, trace: Path) -> Client:
    """The worker in the client's namespace, under strace that writes what its sockets do to `trace`."""
    for tool in ("php", "strace"):
        assert shutil.which(tool), f"{tool} is not installed: sudo scripts/test does it"
    # -D: the process that we started is the worker itself.
    strace = ["strace", "-D", "-e", "trace=connect,sendto,recvfrom,poll", "-o", str(trace)]
    script = Path(__file__).with_name("worker.php")
    return Client(lab.client, ["setpriv", "--pdeathsig", "KILL", *strace, "php", script, SERVER, SERVER])
