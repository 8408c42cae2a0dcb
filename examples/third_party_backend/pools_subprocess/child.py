"""A child process as the engine sees it: frames out, frames in, and the board."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pools_core.frames import Kind, decode_event, encode_call, encode_chunk, encode_session
from pools_core.runner import BOARD_SLOTS
from pools_core.setup import running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pools_core.calls import Chunk, Session, WorkerEvent
    from pools_core.setup import Running

DROP = BOARD_SLOTS
"""The slot after the runner's own: the chunk whose remaining tasks nobody wants."""
BOARD_BYTES = 8 * (BOARD_SLOTS + 1)


def write_frame(pipe: IO[bytes], kind: Kind, parts: Sequence[Any]) -> None:
    """Write a frame; its parts are copied out of whatever objects own them."""
    pickle.dump((int(kind), [bytearray(part) for part in parts]), pipe, 5)


def read_frame(pipe: IO[bytes]) -> tuple[Kind, list[bytearray]]:
    """Read a frame.

    Raises:
        EOFError: there are no more.
    """
    try:
        kind, parts = pickle.load(pipe)
    except pickle.UnpicklingError as error:  # the other side was killed in the middle of it
        raise EOFError("the last frame is not complete") from error
    return Kind(kind), parts


def search_path() -> str:
    """Return where this process finds modules, so that a child finds the same."""
    return os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)


class Child:
    """One worker.

    Args:
        number: its number in its pool.
    """

    def __init__(self, number: int) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(BOARD_BYTES)
            self._board = memoryview(mmap.mmap(file.fileno(), BOARD_BYTES)).cast("q")
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pools_subprocess.worker", str(file.fileno()), str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
                env={**os.environ, "PYTHONPATH": search_path()},
            )
        self.pid = self._process.pid
        self.host = socket.gethostname()
        self.name = f"worker {self.pid} on {self.host}"
        self._calls: set[int] = set()  # what it has been told of
        self._sessions: set[int] = set()

    def run(self, chunk: Chunk, open_calls: set[int]) -> None:
        """Have it run a chunk, telling it of the call and the session when it meets them for the first time.

        Args:
            chunk: the chunk.
            open_calls: ids of the calls that have not ended; the child forgets all others.

        Raises:
            OSError: the child is gone.
        """
        call, session = chunk.call, chunk.call.session
        for gone in self._calls - open_calls - {call.id}:
            self._calls.remove(gone)
            self._write(Kind.CLOSE, [gone.to_bytes(8, "little")])
        if session is not None and session.id not in self._sessions:
            self._sessions.add(session.id)
            self._write(Kind.SESSION, encode_session(session, inherited=False))
        if call.id not in self._calls:
            self._calls.add(call.id)
            self._write(Kind.CALL, encode_call(call))
        self._write(Kind.CHUNK, encode_chunk(chunk))
        self._flush()

    def end(self, session: Session, leave: bool) -> None:
        """Have it take down a session that it has been told of.

        Raises:
            OSError: the child is gone.
        """
        self._sessions.remove(session.id)
        self._write(Kind.END, [session.id.to_bytes(8, "little"), bytes([leave])])
        self._flush()

    def receive(self) -> tuple[Kind, WorkerEvent | None]:
        """Return the kind of what the child says next, and the event, if it is one; blocks until it comes.

        Raises:
            EOFError: the child is gone.
        """
        assert self._process.stdout is not None
        kind, parts = read_frame(self._process.stdout)
        return kind, None if kind in (Kind.READY, Kind.RETIRED) else decode_event(kind, parts)

    def running(self) -> Running | None:
        """Return what it is running, or was when it died."""
        return running(self._board)

    def drop(self, chunk_id: int) -> None:
        """Let the child leave out the rest of a chunk."""
        self._board[DROP] = chunk_id

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> int:
        """Close the pipes, which ends the child; return its exit code, minus the signal number."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what could not be written any more
                pipe.close()
        return self._process.wait()

    def _write(self, kind: Kind, parts: Sequence[Any]) -> None:
        assert self._process.stdin is not None
        write_frame(self._process.stdin, kind, parts)

    def _flush(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.flush()
