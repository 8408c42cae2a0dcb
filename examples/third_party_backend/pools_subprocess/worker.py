"""The child: ``python -m pools_subprocess.worker BOARD``; reads chunks, runs them, writes outcomes.

Standard input and output belong to the pool; what a task prints goes to standard error.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import sys
import threading
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from pools_core.calls import Chunk, Outcomes, Packed
from pools_core.runner import Flusher, Runner
from pools_subprocess.child import BOARD_BYTES, DROP

if TYPE_CHECKING:
    from pools_core.calls import Call, Refused


def main() -> None:
    """Serve until the caller closes the pipe, or dies, which closes it as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides what Ctrl-C means
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    board = memoryview(mmap.mmap(int(sys.argv[1]), BOARD_BYTES)).cast("q")
    frames: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=read, args=(requests, frames), daemon=True).start()

    def send(answer: Outcomes | Refused | None) -> None:
        if isinstance(answer, Outcomes) and isinstance(answer.values, Packed):
            answer = replace(answer, values=plain(answer.values))
        pickle.dump(answer, answers, 5)
        answers.flush()

    send(None)  # the greeting: imports are done
    runner = Runner(send, f"worker {os.getpid()} on {socket.gethostname()}", board, Flusher())
    calls: dict[int, Call] = {}
    while True:
        ended, call, call_id, chunk_id, start, size, items = frames.get()
        for gone in ended:
            runner.close(gone)
            del calls[gone]
        if call is not None:
            runner.open(call)
            calls[call_id] = call
        chunk = Chunk(chunk_id, calls[call_id], start, size, items)
        runner.run(chunk, stop=partial(is_dropped, board, chunk_id))


def is_dropped(board: memoryview, chunk_id: int) -> bool:
    """Whether nobody wants the rest of this chunk."""
    return bool(board[DROP] == chunk_id)


def read(requests: BinaryIO, frames: SimpleQueue[Any]) -> None:
    """Pass frames on; a thread of its own, so that a caller that dies ends the child within a task."""
    try:
        while True:
            frames.put(pickle.load(requests))
    finally:
        os._exit(0)


def plain(packed: Packed) -> Packed:
    """Copy buffers out of the objects that own them, so that they can be written into a pipe."""
    return Packed(bytes(packed.data), [bytearray(buffer) for buffer in packed.buffers])


if __name__ == "__main__":
    main()
