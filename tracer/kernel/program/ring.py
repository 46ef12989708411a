"""The reading end of the BPF ring buffer, in shared memory.

libbpf calls back for each record, which costs Python as much as decoding it. Our records all have one size, so that
all that are ready are taken as one piece of memory.
"""

from __future__ import annotations

import mmap
import select
import threading

from tracer.model.errors import TcpwatchError

HEADER_BYTES = 8  # BPF_RINGBUF_HDR_SZ: length and page offset of the record
_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT, include/uapi/linux/bpf.h


class RingError(TcpwatchError):
    """The ring buffer does not contain events of this version."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the BPF program sent an invalid event ({what}): bpf/ and tracer/ are of different versions",
            hint="install tcpwatch again; tcpwatch --version",
        )


class Ring:
    """A BPF_MAP_TYPE_RINGBUF with records of one size. Close it before the map.

    fd: of the map. size: of its data in bytes, a power of two and whole pages. record: size of a record in bytes,
    without its header. kernel/bpf/ringbuf.c has the layout: a page with the consumer position, a page with the
    producer position, and the data mapped twice in a row, so that no record is split.
    """

    def __init__(self, fd: int, size: int, record: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._record = record
        self._stride = (HEADER_BYTES + record + 7) // 8 * 8
        self._consumer = mmap.mmap(fd, page)
        self._producer = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._producer)[:8].cast("Q")
        self._data = memoryview(self._producer)[page:]
        self._headers = self._data.cast("I")
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._lock = threading.Lock()
        self._lock.acquire()

    def close(self) -> None:
        """Unmap the memory."""
        for view in (self._consumed, self._produced, self._headers, self._data):
            view.release()
        self._consumer.close()
        self._producer.close()

    def wait(self, timeout_ms: int) -> bool:
        """Wait for a record. False after the timeout. A signal handler that raises ends it early."""
        return bool(self._poll.poll(timeout_ms))

    @property
    def used(self) -> float:
        """The used share, 0 to 1."""
        return float((self._produced[0] - self._consumed[0]) / self._size)

    def take(self, limit: int) -> bytes:
        """Take the oldest records, at most `limit`: each a header of HEADER_BYTES and the record, padded to 8 bytes.

        Stops before a record that the kernel is still writing. Raises RingError.
        """
        consumed = self._consumed[0]
        count = min((self._produced[0] - consumed) // self._stride, limit)
        if count <= 0:
            return b""
        start = consumed % self._size
        end = start + count * self._stride
        self._barrier()
        for number, header in enumerate(self._headers[start // 4 : end // 4 : self._stride // 4].tolist()):
            if header != self._record:
                if header & _BUSY:
                    end = start + number * self._stride
                    break
                raise RingError(f"a record with the header {header:#x} instead of {self._record:#x}")
        # Read the data after its header, which makes it valid.
        self._barrier()
        taken = bytes(self._data[start:end])
        self._barrier()
        self._consumed[0] = consumed + len(taken)
        return taken

    def _barrier(self) -> None:
        """A full memory barrier: aarch64 would reorder the reads and writes around it.

        It pairs with the kernel's smp_load_acquire() and smp_store_release(). Releasing and taking a lock is both.
        """
        self._lock.release()
        self._lock.acquire()
