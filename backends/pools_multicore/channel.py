"""One worker's line: frames over a stream socket, of which the engine and the worker hold an end each.

    8 bytes        kind, number of parts
    8 bytes each   the parts' lengths
    the parts

``FrameReader`` and ``frame_bytes`` never touch a socket.  Whoever meets end-of-file treats the peer as
gone; nobody sends a goodbye, and a frame that was cut off by it never came.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from pools_core.calls import Carried, type_buffer, type_part
from pools_core.frames import Frame, Kind
from pools_core.hints import TYPE_CHECKING
from pools_core.memory import memory_for
from pools_core.spinning import Spinner
from pools_multicore.arena import LARGE_ENOUGH, Reference

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["FrameReader", "Outbox", "read_frames", "write_frame"]

_HEAD: Final = struct.Struct("<HxxI")
_LENGTH: Final = struct.Struct("<Q")
_HEADS: Final = tuple(struct.Struct(f"<HxxI{count}Q") for count in range(5))
"""Heads with the lengths, of frames of so many parts: nearly all have no more, and all of these small."""
_REFERENCE: Final = struct.Struct("<QQ")
_BY_REFERENCE: Final = 1 << 63
"""Stands for the length of a part that lies elsewhere."""
_KINDS: Final = {int(kind): kind for kind in Kind}

BUFFER: Final = 64 * 1024
"""Bytes read at a time, of small parts; large ones do not pass through this buffer."""

LARGE: Final = 32 * 1024
"""Bytes from which a part gets memory of its own and is received straight into it."""

AT_ONCE: Final = 64
"""Parts in one system call; far below the kernel's limit (IOV_MAX, 1024)."""


Put = Callable[[type_part], type_buffer | Reference]
"""Says how a large part goes: as it is, or by a reference to where it lies."""


def frame_bytes(kind: Kind, parts: Sequence[type_part], put: Put | None = None) -> list[type_buffer]:
    """Return a frame as a few buffers: small parts joined with the head, large ones as they are.

    Args:
        kind: what it is.
        parts: its parts.
        put: asked for each part of ``LARGE_ENOUGH`` bytes.
    """
    n_parts = len(parts)
    lengths = [len(part) for part in parts if type(part) is bytes]
    if n_parts == len(lengths) < len(_HEADS) and sum(lengths) < LARGE:
        whole: Any = parts
        return [b"".join((_HEADS[n_parts].pack(kind, n_parts, *lengths), *whole))]
    carried: list[type_buffer] = []
    lengths = []
    for part in parts:
        length = len(part) if isinstance(part, bytes | bytearray) else part.nbytes
        if put is not None and length >= LARGE_ENOUGH:
            way = put(part)
            if isinstance(way, Reference):
                lengths.append(_BY_REFERENCE)
                carried.append(_REFERENCE.pack(*way))
                continue
            part = way  # noqa: PLW2901  the very bytes, perhaps read back from where they lay
        assert not isinstance(part, Carried)
        lengths.append(length)
        carried.append(part)
    small: list[type_buffer] = [_HEAD.pack(kind, len(parts)), struct.pack(f"<{len(parts)}Q", *lengths)]
    out: list[type_buffer] = []
    for part, length in zip(carried, lengths, strict=True):
        if length < LARGE or length == _BY_REFERENCE:
            small.append(part)
        else:
            out += (b"".join(small), part if isinstance(part, bytes | bytearray) else part.cast("B"))
            small = []
    if any(small):
        out.append(b"".join(small))
    return out


class FrameReader:
    """Puts frames together from a stream that comes in any pieces.

    Fill ``space()``, say how much with ``filled(n)``, then take ``frames()``.  A part of 32 KiB or more
    is received straight into memory of its own, so it is copied once, by the kernel, and what is made of it
    is writable and private.

    Args:
        find: returns the memory of a part that lies elsewhere.
    """

    def __init__(self, find: Callable[[Reference], memoryview] | None = None) -> None:
        self._find = find
        self.total = 0
        """Bytes so far."""
        # Pages that nobody has written yet cost nothing; a ``bytearray`` would write them all.
        self._buffer = mmap.mmap(-1, BUFFER, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        # The frame that is under way: what it is, the lengths still to come, the parts so far.
        self._kind: Kind | None = None
        self._lengths: deque[int] = deque()
        self._parts: list[type_buffer] = []
        self._large: memoryview | None = None

    @property
    def mid_part(self) -> bool:
        """Whether a large part is under way, so that more is sure to come at once."""
        return self._large is not None

    def space(self) -> memoryview:
        """Return where the next bytes go."""
        if self._large is not None:
            return self._large
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == BUFFER:
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """Say that ``count`` bytes of ``space()`` have been filled."""
        self.total += count
        if self._large is None:
            self._end += count
        else:
            self._large = self._large[count:] if count < len(self._large) else None

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are complete."""
        while self._large is None and self._kind_known() and self._fill_parts():
            assert self._kind is not None
            frame = (self._kind, self._parts)
            self._kind, self._parts = None, []
            yield frame

    def _kind_known(self) -> bool:
        if self._kind is not None:
            return True
        waiting = self._end - self._start
        if waiting < _HEAD.size:
            return False
        kind, n_parts = _HEAD.unpack_from(self._buffer, self._start)
        after = _HEAD.size + n_parts * _LENGTH.size
        if n_parts * _LENGTH.size + _HEAD.size > BUFFER:
            raise ValueError(f"a frame of {n_parts} parts; the peer is no worker of ours")
        if waiting < after:
            return False
        self._lengths = deque(struct.unpack_from(f"<{n_parts}Q", self._buffer, self._start + _HEAD.size))
        self._start += after
        self._kind = _KINDS[kind]
        return True

    def _fill_parts(self) -> bool:
        """Move what has come into parts; return whether the frame is whole."""
        lengths = self._lengths
        while lengths:
            length = lengths[0]
            start = self._start
            waiting = self._end - start
            if length == _BY_REFERENCE:
                if waiting < _REFERENCE.size:
                    return False
                if self._find is None:
                    raise ValueError("a part that lies elsewhere, of a peer that has no such place")
                reference = Reference(*_REFERENCE.unpack_from(self._buffer, start))
                self._start += _REFERENCE.size
                self._parts.append(self._find(reference))
                lengths.popleft()
                continue
            if length < LARGE:
                if waiting < length:
                    return False
                self._parts.append(bytes(self._view[start : start + length]))
                self._start += length
                lengths.popleft()
                continue
            lengths.popleft()
            part = memory_for(length)
            taken = min(length, waiting)
            part[:taken] = self._view[start : start + taken]
            self._start += taken
            self._parts.append(part)
            if taken < length:
                self._large = memoryview(part)[taken:]
                return False
        return True


class Outbox:
    """What is still to be sent over a socket that must not block.

    Args:
        sock: the socket, non-blocking.
        put: says how large parts go.
    """

    def __init__(self, sock: socket.socket, put: Put | None = None) -> None:
        self._sock = sock
        self._put = put
        self._waiting: deque[type_buffer] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, kind: Kind, parts: Sequence[type_part]) -> None:
        """Add a frame."""
        self._waiting.extend(frame_bytes(kind, parts, self._put))

    def flush(self) -> bool:
        """Send what the socket takes now; return whether that was all.

        Raises:
            OSError: the peer is gone.
        """
        waiting = self._waiting
        while waiting:
            try:
                if len(waiting) == 1:
                    sent = self._sock.send(waiting[0])
                else:
                    sent = self._sock.sendmsg(list(islice(waiting, AT_ONCE)))
            except BlockingIOError:
                return False
            while sent:
                first = waiting[0]
                if sent < len(first):
                    waiting[0] = memoryview(first)[sent:]
                    break
                sent -= len(first)
                waiting.popleft()
        return True


def write_frame(sock: socket.socket, kind: Kind, parts: Sequence[type_part], put: Put | None = None) -> None:
    """Send a frame over a blocking socket."""
    for buffer in frame_bytes(kind, parts, put):
        sock.sendall(buffer)


def read_frames(
    sock: socket.socket, spinner: Spinner, find: Callable[[Reference], memoryview] | None = None
) -> Iterator[Frame]:
    """Yield frames from a blocking socket until end-of-file.

    Args:
        sock: the socket.
        spinner: how to wait for them.
        find: see ``FrameReader``.
    """
    reader = FrameReader(find)

    def look() -> int | None:
        try:
            return sock.recv_into(reader.space(), 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def sleep() -> int:
        return sock.recv_into(reader.space())

    while True:
        count = spinner.wait(look, sleep)
        if count == 0:
            return
        reader.filled(count)
        yield from reader.frames()
