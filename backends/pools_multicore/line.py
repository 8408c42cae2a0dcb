"""The worker's end of its line: frames of its own thread and of the flusher's, and log records."""

from __future__ import annotations

import marshal
import socket
import threading
from collections import deque
from collections.abc import Sequence

from pools_core.calls import type_buffer, type_part
from pools_core.frames import Kind
from pools_multicore.arena import Arena, Reader, Reference
from pools_multicore.channel import write_frame

__all__ = ["Line"]


class Line:
    """Sends frames, one at a time.

    Args:
        channel: the worker's end of the socket pair.
        side: on which descriptors of shared memory go, both ways.
    """

    def __init__(self, channel: socket.socket, side: socket.socket) -> None:
        self._channel = channel
        self._side = side
        self._arena = Arena()
        self.reader = Reader(side)
        self._lock = threading.Lock()
        self._writer: int | None = None
        self._records: deque[bytes] = deque()

    def send(self, kind: Kind, parts: Sequence[type_part]) -> None:
        """Send a frame, after the log records that are older; blocks while the other side does not read."""
        with self._lock:
            self._writer = threading.get_ident()
            try:
                self._write_records()
                if self.reader.freed:
                    freed = self.reader.take_freed()
                    write_frame(self._channel, Kind.FREED, [marshal.dumps(freed, 2)])
                write_frame(self._channel, kind, parts, self._put)
            finally:
                self._writer = None
        self._send_records()

    def log(self, record: bytes) -> None:
        """Send a log record, now, or with the frame that is just being sent."""
        # Not ``with self._lock``: whoever logs may be a finalizer that interrupted ``send`` in this thread.
        self._records.append(record)
        self._send_records()

    def freed(self, segments: list[int]) -> None:
        """The parent has let go of segments of this worker's."""
        self._arena.freed(segments, "parent")

    def _put(self, part: type_part) -> type_buffer | Reference:
        return self._arena.put(part, "parent", self._side)

    def is_writing(self) -> bool:
        """Whether the calling thread was interrupted in the middle of a frame."""
        return self._writer == threading.get_ident()

    def close(self) -> None:
        """In a process that a task forked: let go of the line."""
        self._channel.close()
        self._side.close()
        self._arena.close(in_child=True)

    def _send_records(self) -> None:
        while self._records and self._lock.acquire(blocking=False):
            self._writer = threading.get_ident()
            try:
                self._write_records()
            finally:
                self._writer = None
                self._lock.release()

    def _write_records(self) -> None:
        while self._records:
            write_frame(self._channel, Kind.LOG, [self._records.popleft()])
