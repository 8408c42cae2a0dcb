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
from typing import TYPE_CHECKING

from pools_core.runner import BOARD_SLOTS, CHUNK, OFFSET

if TYPE_CHECKING:
    from pools_core.calls import Chunk, Outcomes, Refused

DROP = BOARD_SLOTS
"""The slot after the runner's own: the chunk whose remaining tasks nobody wants."""
BOARD_BYTES = 8 * (BOARD_SLOTS + 1)


def search_path() -> str:
    """Return where this process finds modules, so that a child finds the same."""
    return os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)


class Child:
    """One worker."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(BOARD_BYTES)
            self._board = memoryview(mmap.mmap(file.fileno(), BOARD_BYTES)).cast("q")
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pools_subprocess.worker", str(file.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
                env={**os.environ, "PYTHONPATH": search_path()},
            )
        self.pid = self._process.pid
        self.host = socket.gethostname()
        self.name = f"worker {self.pid} on {self.host}"
        self._known: set[int] = set()  # calls whose function it has

    def send(self, chunk: Chunk, open_calls: set[int]) -> None:
        """Send a chunk, with its call when the child meets it for the first time.

        Args:
            chunk: the chunk.
            open_calls: ids of the calls that have not ended; the child forgets all others.

        Raises:
            OSError: the child is gone.
        """
        ended = self._known - open_calls - {chunk.call.id}
        call = None if chunk.call.id in self._known else chunk.call
        self._known = self._known - ended | {chunk.call.id}
        assert self._process.stdin is not None
        frame = (ended, call, chunk.call.id, chunk.id, chunk.start, chunk.size, chunk.items)
        pickle.dump(frame, self._process.stdin, 5)
        self._process.stdin.flush()

    def receive(self) -> Outcomes | Refused:
        """Return the child's next answer; blocks until there is one.

        Raises:
            EOFError: the child is gone.
        """
        assert self._process.stdout is not None
        try:
            answer: Outcomes | Refused = pickle.load(self._process.stdout)
        except pickle.UnpicklingError as error:  # it was killed in the middle of a frame
            raise EOFError(f"{self.name} stopped in the middle of an answer") from error
        return answer

    def task_of(self, chunk_id: int) -> int | None:
        """Return the offset of the task of this chunk that was running; None if none was."""
        return self._board[OFFSET] if self._board[CHUNK] == chunk_id else None

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
