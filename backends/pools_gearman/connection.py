"""One connection to a job server: packets out, packets and lines in.

Everything here runs in one asyncio loop, or in a thread that acts in it (``shared_loop``).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, cast

from pools_core.calls import type_buffer
from pools_core.errors import TransportError
from pools_gearman.packets import Command, Line, Packet, PacketReader, encode
from pools_gearman.shared_loop import at_end

if TYPE_CHECKING:
    from pools_gearman.reading import SharedReading

__all__ = ["Connection"]

SMALL: Final = 1 << 16
"""Buffers below are joined for one system call; a large one is not worth copying."""


class Connection(asyncio.BufferedProtocol):
    """Packets over one TCP connection.

    Args:
        most: the largest packet that is taken in, in bytes.
        receive: called with the packets that came together.
    """

    def __init__(self, most: int, receive: Callable[[list[Packet]], None]) -> None:
        self._reader = PacketReader(most)
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._out: list[type_buffer] = []
        self._flushing = False
        self._questions: deque[tuple[asyncio.Future[list[str]], list[str] | None]] = deque()
        self.lost: asyncio.Future[Exception | None] = self._loop.create_future()
        """Done when the connection is gone, with the error if there was one."""
        self.reading: SharedReading | None = None
        """Who else may read it."""

    # --- sending ------------------------------------------------------------------------------------

    def send(self, command: Command, *args: bytes, data: list[type_buffer] | None = None) -> None:
        """Send a packet, together with what else is sent in this turn of the loop."""
        self._send(encode(command, *args, data=data))

    def ask(self, command: str, *, many: bool) -> asyncio.Future[list[str]]:
        """Send an administrative command; return what will be the lines of its answer.

        Args:
            command: such as ``workers``.
            many: the answer ends with a line that holds a dot; else it is one line.
        """
        answer: asyncio.Future[list[str]] = self._loop.create_future()
        if self.lost.done():
            answer.set_exception(TransportError("the connection to the job server was lost"))
            answer.exception()  # whoever asked may not be waiting
            return answer
        self._questions.append((answer, [] if many else None))
        self._send([f"{command}\n".encode()])
        return answer

    def close(self) -> None:
        """Close the connection, after what was sent has left."""
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, buffers: Iterable[type_buffer]) -> None:
        self._out.extend(buffers)
        if not self._flushing:
            self._flushing = True
            at_end(self._loop, self.flush)

    def flush(self) -> None:
        """Have what was sent so far leave now."""
        self._flushing = False
        out, self._out = self._out, []
        if self._transport is None or self.lost.done():
            return
        small: list[type_buffer] = []
        for buffer in out:
            if len(buffer) < SMALL:
                small.append(buffer)
                continue
            if small:
                self._transport.write(b"".join(small))
                small = []
            self._transport.write(memoryview(buffer))  # of which asyncio cuts off what is sent without a copy
        if small:
            self._transport.write(small[0] if len(small) == 1 else b"".join(small))

    # --- what asyncio calls -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; have the kernel notice a peer that has vanished."""
        self._transport = cast("asyncio.Transport", transport)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what is complete, and send at once what is said to it."""
        self._reader.filled(nbytes)
        flushing, self._flushing = self._flushing, True
        try:
            self._take_in()
        except TransportError as error:
            self._fail(error)
            self.abort()
        finally:
            if not flushing:
                self.flush()

    def _take_in(self) -> None:
        packets: list[Packet] = []
        try:
            for item in self._reader.items():
                if isinstance(item, Line):
                    self._answer(item.text)
                else:
                    packets.append(item)
        finally:
            if packets:
                self._receive(packets)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if self.reading is not None:
            self.reading.remove(self)  # while its descriptor is still its own
        self._fail(exc)

    # --- for a thread that waits ----------------------------------------------------------------------

    def readable_fileno(self) -> int | None:
        """Return the descriptor that packets can be read from; None if there is none, as with TLS."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_extra_info("sslcontext") is not None:
            return None
        number: int = transport.get_extra_info("socket").fileno()
        return number

    def lend(self) -> None:
        """Have the loop not look whether there is something to read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def take_back(self) -> None:
        """Have the loop look again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def read(self) -> bool:
        """Take in what is there; return False if the loop has to look what is wrong."""
        number = self.readable_fileno()
        if number is None:
            return False
        try:
            count = os.readv(number, [self._reader.space()])
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        try:
            self.buffer_updated(count)
        except Exception as error:  # as asyncio does when it reads: it is told, and the connection ends
            self._loop.call_exception_handler({"message": "what came was not understood", "exception": error})
            self.abort()
        return count > 0

    def _answer(self, text: str) -> None:
        if not self._questions:
            raise TransportError(f"the job server said {text[:80]!r} and was not asked")
        answer, lines = self._questions[0]
        if lines is None:
            lines = [text]
        elif text != ".":
            lines.append(text)
            return
        self._questions.popleft()
        if not answer.done():
            answer.set_result(lines)

    def _fail(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)
        while self._questions:
            answer, _ = self._questions.popleft()
            if not answer.done():
                answer.set_exception(TransportError("the connection to the job server was lost"))
                answer.exception()
