"""A place where tasks wait until the test lets them go on.

    test      gate.wait_for(2)  ...  gate.open()
    task      pass_gate(gate.address, "a word")

It works for tasks in threads and in processes alike, because it is a socket on the loopback address.
"""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType
from typing import Final, Self

__all__ = ["PATIENCE", "Address", "Gate", "pass_gate"]

Address = tuple[str, int]

PATIENCE: Final = 30.0
"""Seconds that a task waits for its test: a forgotten one ends, and a hang becomes a failure."""


class Gate:
    """A gate, shut at first.

    Args:
        opens_at: number of tasks waiting at once at which it opens by itself; None: only ``open`` does.
    """

    def __init__(self, opens_at: int | None = None) -> None:
        self._opens_at = opens_at
        self._changed = threading.Condition()
        self._waiting: list[socket.socket] = []
        self._arrived: list[tuple[str, int]] = []
        self._is_open = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._porter = threading.Thread(target=self._receive, name="test gate", daemon=True)
        self._porter.start()

    @property
    def address(self) -> Address:
        """What tasks are told."""
        host, port = self._listener.getsockname()
        return host, port

    def wait_for(self, count: int, timeout: float = PATIENCE) -> list[tuple[str, int]]:
        """Return the words and process ids of those that have come, once there are so many.

        Raises:
            TimeoutError: fewer came.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._arrived) >= count, timeout):
                raise TimeoutError(f"{len(self._arrived)} of {count} tasks came to the gate: {self._arrived}")
            return list(self._arrived)

    @property
    def arrived(self) -> list[tuple[str, int]]:
        """The words and process ids of those that have come so far."""
        with self._changed:
            return list(self._arrived)

    def open(self) -> None:
        """Let everyone pass, now and later."""
        with self._changed:
            self._is_open = True
            self._let_pass()

    def close(self) -> None:
        """Take the gate away; who still waits gets an error."""
        with self._changed:
            self._opens_at = None
        with socket.create_connection(self.address) as farewell:
            farewell.sendall(b"\n")
            self._porter.join()
        self._listener.close()
        for line in self._waiting:
            line.shutdown(socket.SHUT_RDWR)  # not just close: a forked worker may hold a copy
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> None:
        while True:
            line, _ = self._listener.accept()
            with line.makefile("r") as reader:
                words = reader.readline().rstrip("\n")
            if not words:
                line.close()
                return
            word, _, pid = words.rpartition(" ")
            with self._changed:
                self._waiting.append(line)
                self._arrived.append((word, int(pid)))
                if self._opens_at is not None and len(self._waiting) >= self._opens_at:
                    self._is_open = True
                if self._is_open:
                    self._let_pass()
                self._changed.notify_all()

    def _let_pass(self) -> None:
        for line in self._waiting:
            try:
                line.sendall(b"!")
            except OSError:
                pass  # killed while it waited
            line.close()
        self._waiting.clear()


def pass_gate(gate: Address, word: str = "") -> str:
    """Wait at the gate until the test opens it, and return the word.

    Raises:
        TimeoutError: the gate stayed shut for ``PATIENCE`` seconds.
        ConnectionError: the test is over.
    """
    with socket.create_connection(gate, timeout=PATIENCE) as line:
        line.sendall(f"{word} {os.getpid()}\n".encode())
        if not line.recv(1):
            raise ConnectionError("the gate was taken away")
    return word
