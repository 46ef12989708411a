"""The incident as it was met: a PHP worker between beanstalkd and MariaDB."""

from __future__ import annotations

from pathlib import Path

from watching import Start, both_ends
from worker import Beanstalkd, php_worker

from tracer.lab.mariadb import MariaDB
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab


def test_a_queue_worker_freezes_on_its_database(watch: Start, tmp_path: Path) -> None:
    trace = tmp_path / "strace"
    with (
        Lab(ttl_s=4, ports=(3306, 11300), retries2=3) as lab,
        MariaDB(lab.server, SERVER),
        Beanstalkd(lab.server) as queue,
    ):
        seen = watch("--port", "3306,11300", "--netns", both_ends(lab))
        with php_worker(lab, trace) as worker:
            queue.put("1")
            assert worker.answer()["q"] == "first"
            wait_until(lambda: not lab.sessions(3306), 60, "the firewall forgets MariaDB's session")
            assert lab.sessions(11300), "the queue's session is in use, and known"
            before = lab.dropped_packets()
            queue.put("2")
            failed = worker.answer()
            error = seen.wait_for(event="error", rport=3306)[0]
            dropped = lab.dropped_packets() - before
        seen.stop()
    assert not failed["ok"]
    assert "2006 MySQL server has gone away" in failed["error"]

    connection = [each for each in seen.of(sock=error["sock"]) if each["event"] != "stall"]
    retransmits = [each for each in connection if each["event"] == "retransmit"]
    attempts = [(each["kind"], each["attempt"]) for each in retransmits]
    # At RTO 204 ms the fourth attempt is the last (it comes after 2.8 s, before 3.0 s): the kernel's rule, not ours.
    assert attempts[:4] == [("tlp", 0), ("rto", 1), ("rto", 2), ("rto", 3)]
    assert attempts == [("tlp", 0), *(("rto", number) for number in range(1, len(attempts)))]
    # The query and its retransmissions; the queue's session may be forgotten by then, and add its own.
    assert dropped >= 1 + len(retransmits)
    assert (connection[-2]["old_state"], connection[-2]["new_state"]) == ("ESTABLISHED", "CLOSE")
    for each in retransmits:
        assert (each["pid"], each["comm"]) == (worker.connected["pid"], "php")
        assert each["silent_ms"] >= 4000
        assert each["keepalive"] is True, "mysqlnd sets it"

    # The same word in strace: what the kernel told us is what the worker's recvfrom() returned.
    assert error["error"] == "ETIMEDOUT"
    calls = trace.read_text().splitlines()
    assert [call for call in calls if "recvfrom(" in call and "= -1 ETIMEDOUT (Connection timed out)" in call]

    queue_side = seen.of(rport=11300, new_state="ESTABLISHED")
    assert queue_side and queue_side[0]["comm"] == "php"
    assert {3306, 11300} >= {min(each["lport"], each["rport"]) for each in seen.events if "lport" in each}
