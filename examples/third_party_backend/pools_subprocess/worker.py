"""The child: ``python -m pools_subprocess.worker BOARD NUMBER``; reads frames, runs chunks, answers.

Whatever it was told to do, it says in the end that it is READY for the next thing, or RETIRED.
Standard input and output belong to the pool; what a task prints goes to standard error.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import threading
from functools import partial
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from pools_core.frames import Kind, decode_call, decode_chunk, decode_session, encode_event
from pools_core.runner import Flusher, Runner
from pools_subprocess.child import BOARD_BYTES, DROP, read_frame, write_frame

if TYPE_CHECKING:
    from pools_core.calls import Call, Session, WorkerEvent

Frames = SimpleQueue[tuple[Kind, list[bytearray]]]


def main() -> None:
    """Serve until the caller closes the pipe, or dies, which closes it as well; or until it is spent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides what Ctrl-C means
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    board = memoryview(mmap.mmap(int(sys.argv[1]), BOARD_BYTES)).cast("q")
    frames: Frames = SimpleQueue()
    threading.Thread(target=read, args=(requests, frames), daemon=True).start()

    def say(kind: Kind, parts: list[Any]) -> None:
        write_frame(answers, kind, parts)
        answers.flush()

    def send(event: WorkerEvent) -> None:
        say(*encode_event(event))

    name = f"worker {os.getpid()} on {socket.gethostname()}"
    worker = Worker(Runner(send, name, board, Flusher(), number=int(sys.argv[2])), board)
    say(Kind.READY, [])
    while not worker.runner.spent:
        if worker.obey(*frames.get()) and not worker.runner.spent:
            say(Kind.READY, [])
    worker.runner.retire()
    say(Kind.RETIRED, [])


class Worker:
    """What the child keeps, beside what its ``Runner`` does."""

    def __init__(self, runner: Runner, board: memoryview) -> None:
        self.runner = runner
        self._board = board
        self._sessions: dict[int, Session] = {}
        self._calls: dict[int, Call] = {}

    def obey(self, kind: Kind, parts: list[bytearray]) -> bool:
        """Do what a frame says; return whether the caller waits for it to be done."""
        if kind is Kind.SESSION:
            session = decode_session(parts)
            self._sessions[session.id] = session
        elif kind is Kind.CALL:
            call = decode_call(parts, self._sessions)
            self._calls[call.id] = call
            self.runner.open(call)
        elif kind is Kind.CLOSE:
            number = int.from_bytes(parts[0], "little")
            del self._calls[number]
            self.runner.close(number)
        elif kind is Kind.CHUNK:
            chunk, _ = decode_chunk(parts, self._calls)
            self.runner.run(chunk, stop=partial(self._is_dropped, chunk.id))
        else:
            number = int.from_bytes(parts[0], "little")
            del self._sessions[number]
            self.runner.end(number, leave=bool(parts[1][0]))
        return kind in (Kind.CHUNK, Kind.END)

    def _is_dropped(self, chunk_id: int) -> bool:
        """Whether nobody wants the rest of this chunk."""
        return bool(self._board[DROP] == chunk_id)


def read(requests: IO[bytes], frames: Frames) -> None:
    """Pass frames on; a thread of its own, so that a caller that dies ends the child within a task."""
    try:
        while True:
            frames.put(read_frame(requests))
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
    os._exit(0)  # not past the thread that reads: the interpreter cannot end it
