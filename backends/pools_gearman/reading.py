"""Whoever waits for a result reads the connections, so that it need not be woken by another thread.

    nobody waits    the loop's thread reads
    one waits       it sleeps on the connections itself (``sleep``), and takes in what comes (``take``)

Connections are lent: the loop does not look whether they can be read.  Between two waits that follow each
other closely they stay lent, else the loop's thread would be woken just then; it looks every ``GRACE``
seconds whether they do.  A connection that ends, or talks TLS, is the loop's.

All but ``sleep`` is called under the loop's lock.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Final

from pools_core.spinning import Spinner
from pools_gearman.connection import Connection
from pools_gearman.shared_loop import SharedLoop

__all__ = ["Ready", "SharedReading"]

Ready = list[tuple[selectors.SelectorKey, int]]

READ: Final = selectors.EVENT_READ

SPIN: Final = 0.001
"""Seconds to look for an answer before sleeping; the way of a small task through a job server takes less."""

GRACE: Final = 0.02
"""Seconds without a new wait after which the loop's thread reads again."""


class SharedReading:
    """Connections that the thread that waits may read, and a bell to wake it.

    Args:
        loop: the loop whose connections they are.
    """

    def __init__(self, loop: SharedLoop) -> None:
        self._loop = loop
        self.selector = selectors.DefaultSelector()
        self._spinner = Spinner(SPIN)
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self.selector.register(self._bell, READ)
        self._connections: dict[Connection, int] = {}
        self._waiting = False
        self._asleep = False
        self._lent = False
        self._waits = 0
        self._looked_at = 0
        self._looking = False
        self._closed = False

    def add(self, connection: Connection) -> None:
        """A connection is up."""
        number = connection.readable_fileno()
        if number is not None and not self._closed:
            self._connections[connection] = number
            self.selector.register(number, READ, connection)
            if self._lent:
                connection.lend()

    def remove(self, connection: Connection) -> None:
        """A connection is lost, or the loop shall look what is wrong with it."""
        number = self._connections.pop(connection, None)
        if number is not None:
            self.selector.unregister(number)

    def begin(self) -> bool:
        """This thread is about to sleep; return whether it has the connections, or has to ``borrow`` them."""
        self._asleep = self._waiting = True
        self._waits += 1
        return self._lent

    def borrow(self) -> None:
        """Have the loop not read for as long as there are waits that follow each other closely."""
        self._lent = True
        for connection in self._connections:
            connection.lend()
        if not self._looking and not self._closed:
            self._looking = True
            self._loop.call_soon_threadsafe(self._look)

    def sleep(self, timeout: float | None, out: int) -> Ready:
        """Sleep until something can be read, or the bell rings; first look for a moment, if that has paid.

        Args:
            timeout: seconds; None for no limit.
            out: how many chunks are under way.
        """
        return self._spinner.select(self.selector, timeout, out)

    def take(self, ready: Ready) -> None:
        """Take in what has come."""
        self._asleep = False
        for key, _ in ready:
            connection = key.data
            if connection is None:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
            elif connection in self._connections and not connection.read():
                self.remove(connection)
                connection.take_back()

    def end(self) -> None:
        """This thread waits no more."""
        self._asleep = self._waiting = False
        if self._closed:
            self._close()
        elif not self._looking:
            self.give_back()

    def give_back(self) -> None:
        """Have the loop read, unless a thread waits."""
        if self._lent and not self._waiting:
            self._lent = False
            for connection in self._connections:
                connection.take_back()

    def _look(self) -> None:
        self._looking = self._waits != self._looked_at and not self._closed
        self._looked_at = self._waits
        if self._looking:
            self._loop.call_later(GRACE, self._look)
        else:
            self.give_back()

    def ring(self) -> None:
        """Wake the thread that sleeps, if any."""
        if self._asleep and not self._closed:
            with contextlib.suppress(BlockingIOError):  # it has rung already
                self._button.send(b"!")

    def close(self) -> None:
        """Nobody will wait any more, once whoever does has been woken."""
        if not self._closed:
            self.ring()
            self._closed = True
            if not self._waiting:
                self._close()

    def _close(self) -> None:
        self.selector.close()
        self._bell.close()
        self._button.close()
