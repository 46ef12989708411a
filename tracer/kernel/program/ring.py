"""The ring buffer that the kernel side writes events to, read in place.

libbpf calls back for each record, which costs Python as much as decoding it. Ours are all of one size, so that a look
takes everything that is ready as one piece of memory.
"""

from __future__ import annotations

import mmap
import select
import threading

from tracer.model.errors import TcpwatchError

HEADER_BYTES = 8  # BPF_RINGBUF_HDR_SZ: the record's length, and where its page is
_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT, include/uapi/linux/bpf.h


class RingError(TcpwatchError):
    """The ring does not hold what was agreed: the two sides of tcpwatch do not belong together."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the kernel side handed over no event ({what}): bpf/ and tracer/ are of different versions",
            hint="install tcpwatch again, all of it; tcpwatch --version",
        )


class Ring:
    """The reading end of a BPF_MAP_TYPE_RINGBUF whose records all have the same size.

    fd: the map's. size: of its data, bytes, a power of two and whole pages. record: bytes of one record without its
    header. kernel/bpf/ringbuf.c has the layout: a page with the consumer's position, a page with the producer's, and
    the data twice in a row, so that nothing is ever split. Close it before the map.
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
        """Give the memory back."""
        for view in (self._consumed, self._produced, self._headers, self._data):
            view.release()
        self._consumer.close()
        self._producer.close()

    def wait(self, timeout_ms: int) -> bool:
        """Until there is something to take, at most so long. A signal ends it sooner where its handler raises."""
        return bool(self._poll.poll(timeout_ms))

    @property
    def used(self) -> float:
        """How full it is, 0 to 1."""
        return float((self._produced[0] - self._consumed[0]) / self._size)

    def take(self, most: int) -> bytes:
        """The oldest records, at most so many, each HEADER_BYTES of header and then itself padded to 8 bytes.

        A record that the kernel is still writing ends them. Raises RingError.
        """
        consumed = self._consumed[0]
        count = min((self._produced[0] - consumed) // self._stride, most)
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
        # Only now the data: what a header says of it holds for what is read after the header.
        self._barrier()
        taken = bytes(self._data[start:end])
        self._barrier()
        self._consumed[0] = consumed + len(taken)
        return taken

    def _barrier(self) -> None:
        """What stands before it is read before what stands behind it; aarch64 would not keep that order by itself.

        The kernel pairs with smp_load_acquire() and smp_store_release(). A lock released and taken again is both.
        """
        self._lock.release()
        self._lock.acquire()
