"""The scripted peer itself: what is on the wire is what its counters say, and nothing of it is left."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from scripted import FAMILIES, ScriptedPeer


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_data_that_nobody_acknowledges(family: int | str) -> None:
    with ScriptedPeer(family, tcp_retries2=1) as peer:
        conn = peer.accepted()
        conn.write(100)
        conn.expect("PA", length=100)
        assert conn.error() == errno.ETIMEDOUT
        copies = [each for each in conn.sent() if each.length == 100]
        assert len({each.seq for each in copies}) == 1 and len(copies) >= 3
        assert peer.counted()["TcpRetransSegs"] == len(copies) - 1


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_kernel_as_the_client_and_a_reset(family: int | str) -> None:
    with ScriptedPeer(family) as peer:
        conn = peer.connected()
        conn.write(3000)
        conn.expect_data(3000)
        conn.ack()
        conn.reset()
        assert conn.error() == errno.ECONNRESET
        assert peer.is_over()


def test_a_script_that_fails_leaves_nothing() -> None:
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    with pytest.raises(OSError, match="of the script"), ScriptedPeer() as peer:
        assert Path("/proc/thread-self/ns/net").stat().st_ino == peer.netns != own
        peer.accepted()
        raise OSError("of the script")
    assert Path("/proc/thread-self/ns/net").stat().st_ino == own
    assert "tun0" not in Path("/proc/net/dev").read_text(encoding="ascii")
