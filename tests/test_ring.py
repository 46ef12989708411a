"""The reading end of the ring, on memory that is laid out as the kernel's (kernel/bpf/ringbuf.c)."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from tracer.kernel.program.ring import HEADER_BYTES, Ring, RingError

RECORD = 20
STRIDE = 32  # with its header, padded to 8
SIZE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Kernel:
    """The writing end. Positions only grow; the data stands there twice."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + 2 * SIZE)
        self.produced = 0

    def consumed(self) -> int:
        return int(struct.unpack("=Q", os.pread(self.fd, 8, 0))[0])

    def write(self, data: bytes, header: int = RECORD) -> int:
        """Append a record, and return its position."""
        position = self.produced
        slot = struct.pack("=II", header, 0) + data.ljust(STRIDE - HEADER_BYTES, b"\0")
        for number, byte in enumerate(slot):
            at = 2 * mmap.PAGESIZE + (position + number) % SIZE
            os.pwrite(self.fd, bytes([byte]), at)
            os.pwrite(self.fd, bytes([byte]), at + SIZE)
        self.produced += STRIDE
        os.pwrite(self.fd, struct.pack("=Q", self.produced), mmap.PAGESIZE)
        return position

    def commit(self, position: int) -> None:
        for copy in (0, SIZE):
            os.pwrite(self.fd, struct.pack("=I", RECORD), 2 * mmap.PAGESIZE + position % SIZE + copy)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    os.close(made.fd)


@pytest.fixture
def ring(kernel: Kernel) -> Iterator[Ring]:
    made = Ring(kernel.fd, SIZE, RECORD)
    yield made
    made.close()


def records(taken: bytes) -> list[bytes]:
    assert len(taken) % STRIDE == 0
    return [
        taken[at + HEADER_BYTES : at + HEADER_BYTES + RECORD].rstrip(b"\0") for at in range(0, len(taken), STRIDE)
    ]


def test_what_is_there_is_taken_once_and_given_back(kernel: Kernel, ring: Ring) -> None:
    assert ring.take(10) == b""
    kernel.write(b"one")
    kernel.write(b"two")
    assert records(ring.take(10)) == [b"one", b"two"]
    assert kernel.consumed() == 2 * STRIDE
    assert ring.take(10) == b""


def test_no_more_than_asked_for(kernel: Kernel, ring: Ring) -> None:
    for number in range(5):
        kernel.write(b"%d" % number)
    assert [records(ring.take(2)) for _ in range(3)] == [[b"0", b"1"], [b"2", b"3"], [b"4"]]


def test_what_is_still_being_written_ends_it(kernel: Kernel, ring: Ring) -> None:
    kernel.write(b"one")
    half = kernel.write(b"half", header=RECORD | BUSY)
    kernel.write(b"three")
    assert records(ring.take(10)) == [b"one"]
    assert ring.take(10) == b""
    kernel.commit(half)
    assert records(ring.take(10)) == [b"half", b"three"]


def test_it_goes_round_and_round(kernel: Kernel, ring: Ring) -> None:
    for number in range(3 * SIZE // STRIDE):
        kernel.write(b"%d" % number)
        if number % 7 == 6:
            assert records(ring.take(7)) == [b"%d" % each for each in range(number - 6, number + 1)]


@pytest.mark.parametrize("header", [RECORD + 8, RECORD | DISCARDED])
def test_records_of_another_program_are_an_error(kernel: Kernel, ring: Ring, header: int) -> None:
    kernel.write(b"one", header=header)
    with pytest.raises(RingError, match="instead of 0x14"):
        ring.take(10)


def test_a_ring_can_be_closed_twice(ring: Ring) -> None:
    ring.close()
