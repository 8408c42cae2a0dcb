"""Large buffers through shared memory: one copy in, none out.

    owner                                                    reader
    hold(view): into a free segment (one copy)
    its descriptor, once per reader  ═══ side socket ═══▶    mapped, once, and kept
    Reference(segment, length)       ─── in a frame ────▶    view(): memory of the segment, private
    free for the next buffer         ◀── in a frame ─────    when nothing refers to that memory any more

A segment is a ``memfd``: it has no name and needs no ``/dev/shm``, and the kernel clears it away with the
last process that has it.  The owner only writes to it, with ``pwrite``, which reports a lack of memory as
an error; then, or where there is no ``memfd``, the buffer goes through the socket as if this were not here.
An owner may map a segment that it uses again, since a write to a mapping takes half as long.  Only what
``pwrite`` has put memory behind is written so: where there is none, it would kill.

The reader maps it privately (``MAP_PRIVATE``): what it writes stays its own, also in processes that it
forks.  Whatever is made of such memory (an array, a slice of one) keeps one exporter alive; when that goes,
the reader drops its own pages (``MADV_DONTNEED``) and says that the segment is free.  Those that it has not
written it keeps: they show what the owner writes next, and to find them again takes longer than to read them.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import mmap
import os
import socket
import struct
import sys
import threading
import weakref
from collections import deque

from pools_core.calls import Carried, type_buffer, type_part
from pools_core.hints import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["LARGE_ENOUGH", "Arena", "Held", "Reader", "Reference"]

LARGE_ENOUGH: Final = 256 * 1024
"""Bytes from which a buffer goes through a segment: below, the bookkeeping costs as much as the socket."""

MOST_KEPT: Final = 512 << 20
"""Bytes of free and used segments of one owner beyond which a free one is let go rather than kept: what
two chunks for each of some dozens of workers take, with arrays of 8 MB."""

MOST_SEGMENTS: Final = 64
"""Segments of one owner; each is a descriptor of its process, and two once it is mapped.  Buffers beyond
them go through the socket."""

PIECE: Final = 1 << 20
"""Bytes that are written to a mapping at a time, which takes 0.1 ms; meanwhile no other thread runs."""

SLACK: Final = 2
"""A segment may be that many times as large as what it holds."""

WORTH_A_LOOK: Final = 1 << 20
"""Bytes of a mapping from which it is looked whether its reader has written to it: 0.08 ms for 8 MB, where
dropping its pages takes 0.13 and their return 0.3."""

PAGEMAP: Final = "/proc/self/pagemap"
_TOP: Final = 7 if sys.byteorder == "little" else 0
_OWN: Final = bytes(bool(top & 0xC0) and top & 0xA0 != 0xA0 for top in range(256))
"""Whether a page is the reader's own, by the top byte of its entry there: swapped (0x40), or present (0x80)
and no page of the file (0x20); see proc(5)."""

_MADV_POPULATE_WRITE: Final = 23
"""As in <linux/mman.h>; Python has no name for it."""

_ANNOUNCE: Final = struct.Struct("<QQ")


class Reference(Record):
    """A part of a frame that lies in a segment.

    Attributes:
        segment: its number, unique for its owner.
        nbytes: how much of it.
    """

    segment: int
    nbytes: int


class Held(Carried):
    """A buffer in a segment, on the owner's side; stands for it in a packed value."""

    __slots__ = ("__weakref__", "segment")

    def __init__(self, segment: _Segment, nbytes: int) -> None:
        super().__init__(nbytes)
        self.segment = segment

    def read(self) -> bytes:
        """Return the buffer, for a reader that cannot be given the segment."""
        return os.pread(self.segment.fd, self.nbytes, 0)


class _Segment:
    """Some shared memory; its descriptor lives as long as this.

    Attributes:
        number: unique in this process.
        users: who may still look at what it holds: readers, by key, and None for the owner itself.
        backed: bytes that have memory behind them, from the first on.
        mapping: through which the owner writes; None if it does not.
        known: readers that have it mapped, or will.
    """

    __slots__ = ("__weakref__", "_close", "backed", "fd", "known", "mapping", "number", "size", "users")

    def __init__(self, fd: int, size: int) -> None:
        self.number = next(_numbers)
        self.fd = fd
        self.size = size
        self.users: set[Any] = set()
        self.known: set[Any] = set()
        self.backed = 0
        self.mapping: mmap.mmap | None = None
        self._close = weakref.finalize(self, os.close, fd)
        self._close.atexit = False

    def close(self) -> None:
        """Let go of the descriptor and the mapping now."""
        self._close()
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None

    def write(self, view: memoryview, maps: bool) -> None:
        """Copy a buffer into it.

        Args:
            view: the buffer.
            maps: whether the owner may map it.

        Raises:
            OSError: there is no memory for it.
        """
        view = view.cast("B")
        if maps and self.mapping is None and self.backed:
            # Mapping takes as long as what two later writes save; what is used again mostly is so often.
            with contextlib.suppress(OSError):  # no descriptor left: it goes on as it did
                self.mapping = mmap.mmap(self.fd, self.size)
                self.mapping.madvise(_MADV_POPULATE_WRITE, 0, self.backed)  # at once; since Linux 5.14
        if self.mapping is None or view.nbytes > self.backed:
            _write(self.fd, view)
            self.backed = max(self.backed, view.nbytes)
            return
        for start in range(0, view.nbytes, PIECE):
            end = min(start + PIECE, view.nbytes)
            self.mapping[start:end] = view[start:end]


_numbers: Final = itertools.count(1)


class Arena:
    """The segments that one process writes.

    Args:
        maps: whether it may map them: a mapping counts as memory of the process, which a worker may be
            allowed so much of.
    """

    def __init__(self, *, maps: bool = False) -> None:
        self._maps = maps
        self._lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self._bytes = 0
        self._released: deque[int] = deque()

    def hold(self, view: memoryview) -> Held | None:
        """Copy a buffer into a segment; None if that cannot be had."""
        with self._lock:
            while self._released:
                self._freed(self._released.popleft(), None)
            segment = self._free(view.nbytes) or self._new(view.nbytes)
            if segment is None:
                return None
            segment.users.add(None)
        try:
            segment.write(view, self._maps)
        except BaseException as error:  # no memory left; or Ctrl-C, and nobody would say that it is free
            with self._lock:
                self._destroy(segment)
            if isinstance(error, OSError):
                return None
            raise
        held = Held(segment, view.nbytes)
        # A finalizer may run in any thread at any moment: it only leaves a note.
        weakref.finalize(held, self._released.append, segment.number).atexit = False
        return held

    def refer(self, held: Held, reader: Any, side: socket.socket) -> Reference | None:
        """Return what stands for a buffer in a frame to a reader; None if it cannot be told of the segment.

        Args:
            held: the buffer.
            reader: a key for who reads it.
            side: a socket to it that keeps message borders, on which it gets the descriptor.
        """
        segment = held.segment
        with self._lock:
            if reader not in segment.known:
                try:
                    fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [segment.fd]))]
                    side.sendmsg([_ANNOUNCE.pack(segment.number, segment.size)], fds, socket.MSG_DONTWAIT)
                except OSError:  # many announced and none looked at; or it is gone, which is told elsewhere
                    return None
                segment.known.add(reader)
            segment.users.add(reader)
            return Reference(segment.number, held.nbytes)

    def put(self, part: type_part, reader: Any, side: socket.socket) -> type_buffer | Reference:
        """Return how a large part goes to a reader: by reference if possible, else as it is."""
        held: Carried | None = part if isinstance(part, Carried) else self.hold(memoryview(part))
        if held is None:
            assert not isinstance(part, Carried)
            return part
        assert isinstance(held, Held)
        reference = self.refer(held, reader, side)
        if reference is not None:
            return reference
        return held.read() if isinstance(part, Carried) else part

    def freed(self, numbers: list[int], reader: Any) -> None:
        """A reader has let go of segments; a negative number is of one that must not be written again."""
        with self._lock:
            for number in numbers:
                self._freed(number, reader)

    def gone(self, reader: Any) -> None:
        """A reader has ended."""
        with self._lock:
            for segment in self._segments.values():
                segment.users.discard(reader)
                segment.known.discard(reader)

    def close(self, in_child: bool = False) -> None:
        """Let go of all segments, those that hold something when that goes; readers keep what they mapped.

        Args:
            in_child: in a process forked from the owner, of all descriptors at once.
        """
        for segment in list(self._segments.values()):
            if in_child:
                segment.close()
        self._segments.clear()
        self._bytes = 0

    def _freed(self, number: int, reader: Any) -> None:
        segment = self._segments.get(abs(number))
        if segment is not None:
            segment.users.discard(reader)
            if number < 0:
                self._destroy(segment)

    def _free(self, nbytes: int) -> _Segment | None:
        fitting = [
            segment
            for segment in self._segments.values()
            if not segment.users and nbytes <= segment.size <= SLACK * nbytes
        ]
        return min(fitting, key=lambda segment: segment.size, default=None)

    def _new(self, nbytes: int) -> _Segment | None:
        size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        idle = [segment for segment in self._segments.values() if not segment.users]
        while idle and (self._bytes + size > MOST_KEPT or len(self._segments) >= MOST_SEGMENTS):
            self._destroy(idle.pop())
        if len(self._segments) >= MOST_SEGMENTS:
            return None
        try:
            fd = os.memfd_create("pools-arena")
        except (AttributeError, OSError):
            return None
        segment = _Segment(fd, size)
        self._segments[segment.number] = segment
        self._bytes += size
        try:
            os.ftruncate(fd, size)
        except OSError:
            self._destroy(segment)
            return None
        return segment

    def _destroy(self, segment: _Segment) -> None:
        if self._segments.pop(segment.number, None) is not None:
            self._bytes -= segment.size


class Reader:
    """The segments of one owner, as who reads them sees them.

    Args:
        side: the socket on which descriptors come, before the frames that refer to them.

    Attributes:
        drops: whether it keeps no page that nothing refers to: what is kept counts as memory of this process.
    """

    def __init__(self, side: socket.socket) -> None:
        self.drops = False
        self._side = side
        self._maps: dict[int, mmap.mmap] = {}
        self.freed: deque[int] = deque()
        """Segments that nothing here refers to any more, and whose owner is to be told."""

    def view(self, reference: Reference) -> memoryview:
        """Return the memory of a reference, writable and private.

        Raises:
            OSError: it cannot be mapped, or its owner is gone.
        """
        mapping = self._maps.get(reference.segment)
        while mapping is None:
            self._receive()
            mapping = self._maps.get(reference.segment)
        return memoryview(self._exporter(mapping, reference)).cast("B")

    def take_freed(self) -> list[int]:
        """Return the segments that the owner may have back, and has not been told of."""
        found = []
        while self.freed:
            found.append(self.freed.popleft())
        return found

    def close(self) -> None:
        """Forget all; what is still referred to stays until it is not."""
        for mapping in self._maps.values():
            with contextlib.suppress(BufferError):
                mapping.close()
        self._maps.clear()

    def _receive(self) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._side, _ANNOUNCE.size, 1)
        except ConnectionResetError:
            # The peer ended before it had read all that was sent to it, which is told first, and once;
            # what it had sent itself is still there.
            message, fds, _, _ = socket.recv_fds(self._side, _ANNOUNCE.size, 1)
        if not message or not fds:
            raise ConnectionError("the owner of the shared memory is gone")
        number, size = _ANNOUNCE.unpack(message)
        try:
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            self._maps[number] = mmap.mmap(fds[0], size, mmap.MAP_PRIVATE, protection)
        finally:
            os.close(fds[0])

    def _exporter(self, mapping: mmap.mmap, reference: Reference) -> Any:
        """Return an object through which all that is made of this memory refers to it.

        Not a slice of a view of the mapping: a view of a view refers to the mapping itself, so nothing
        would tell one use of the segment from the next.
        """
        import ctypes  # some milliseconds, paid by those who send large arrays

        exporter = (ctypes.c_char * reference.nbytes).from_buffer(mapping)
        weakref.finalize(exporter, self._let_go, mapping, reference.segment, _forks).atexit = False
        return exporter

    def _let_go(self, mapping: mmap.mmap, segment: int, forks: int) -> None:
        if forks != _forks:
            # A process was forked meanwhile, and may look at this memory for as long as it likes.
            self._maps.pop(segment, None)
            self.freed.append(-segment)
            return
        with contextlib.suppress(ValueError, OSError):  # it was closed
            start, length = (0, len(mapping)) if self.drops else own_pages(mapping)
            if length:
                mapping.madvise(mmap.MADV_DONTNEED, start, length)
        self.freed.append(segment)


def own_pages(mapping: mmap.mmap) -> tuple[int, int]:
    """Return where the pages are that this process has written to in a private mapping.

    Returns:
        Start and length in bytes of what reaches from the first of them to the last; no length if there are
        none, and all of the mapping where it is not worth a look, or not to be seen.

    Raises:
        ValueError: the mapping is closed.
    """
    everything = 0, len(mapping)
    if len(mapping) < WORTH_A_LOOK:
        return everything
    import ctypes

    first = ctypes.addressof(ctypes.c_char.from_buffer(mapping)) // mmap.PAGESIZE
    size = -(-len(mapping) // mmap.PAGESIZE) * 8
    try:
        with open(PAGEMAP, "rb", buffering=0) as file:
            entries = os.pread(file.fileno(), size, first * 8)
    except OSError:  # not Linux, or hidden
        return everything
    if len(entries) != size:
        return everything
    own = entries[_TOP::8].translate(_OWN)
    start, end = own.find(1), own.rfind(1) + 1
    return max(start, 0) * mmap.PAGESIZE, (end - max(start, 0)) * mmap.PAGESIZE


_forks = 0
"""How often this process has been forked."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  one for the process
    _forks += 1


os.register_at_fork(before=_count_fork)


def _write(fd: int, view: memoryview) -> None:
    view = view.cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], done)
