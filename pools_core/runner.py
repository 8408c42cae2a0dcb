"""The worker's side of every backend: opens calls and sessions, and runs chunks.

chunk ─▶ set up its session ─▶ open its items ─▶ ``chunkrun``: the tasks, one by one ─▶ outcomes
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from time import monotonic_ns

from pools_core.calls import Call, Chunk, Outcomes, Packed, Refused, SetupFailed, WorkerEvent
from pools_core.chunkrun import ChunkRun, Pass
from pools_core.errors import SerializationError
from pools_core.failures import describe
from pools_core.flusher import Flusher
from pools_core.hints import TYPE_CHECKING
from pools_core.ledger import Ledger
from pools_core.packed_functions import FunctionUnknownError, unknown_of, unpack_function
from pools_core.payload import seal, unpack_batch
from pools_core.seeding import Board, TaskIndex, current
from pools_core.setup import BOARD_SLOTS, CHUNK, OFFSET, STARTED, SetupError, Setups
from pools_core.watch import Watch

if TYPE_CHECKING:
    from typing import Any

__all__ = ["BOARD_SLOTS", "CHUNK", "OFFSET", "STARTED", "Flusher", "Runner"]

Send = Callable[[WorkerEvent], None]


class Runner:
    """Runs chunks, in whichever thread calls ``run``; one at a time.

    Args:
        send: takes outcomes to the caller's side; may block; is called from the thread that runs the
            chunk and, one call at a time, from the flusher's.
        worker: the worker's name for error notes, such as ``"worker 4711 on host1"``.
        board: ``BOARD_SLOTS`` integers that others may watch; a private list if not given.
        flusher: sends gathered results while a slow task runs; None where nobody could take them.
        number: the worker's number in its pool, from 0.
        packs: what leaves is packed; by default that is so where there is a board.
        max_memory: bytes of resident memory above which the worker is to be replaced; None for no limit.
        ledger: keeps results of chunks of several units until they have left; where there is none, a worker
            does not get such chunks.
    """

    def __init__(
        self,
        send: Send,
        worker: str,
        board: Board | None = None,
        flusher: Flusher | None = None,
        number: int = 0,
        packs: bool | None = None,
        max_memory: int | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.worker = worker
        self.board: Board = [0] * BOARD_SLOTS if board is None else board
        self.send = send
        self.flusher = flusher
        self._number = number
        self._ledger = ledger
        self.watch = Watch(number, self.board, max_memory)
        self.spent = False
        """Whether the worker has done its share, and is to be replaced: call ``retire`` then."""
        packs = board is not None if packs is None else packs
        self._setups = Setups(number, worker, self.board, packs, send)
        self._functions: dict[int, Callable[..., Any]] = {}
        self._calls: dict[int, Call] = {}

    def open(self, call: Call) -> None:
        """Take note of a call; its function is unpacked when its first chunk comes."""
        self._calls[call.id] = call

    def close(self, call_id: int) -> None:
        """Forget a call."""
        self._calls.pop(call_id, None)
        self._functions.pop(call_id, None)

    def end(self, session: int, leave: bool = True, send: Send | None = None) -> None:
        """A session is over: run its exit function, and send what came of it.

        Args:
            session: its id.
            leave: False: only forget it, and send nothing.
            send: takes what came of it; default as for outcomes.
        """
        self._setups.end(session, leave, send)

    def retire(self) -> None:
        """Take all sessions down; what runs after this is set up anew."""
        self._setups.end_all()
        self._functions.clear()  # they are bound to what the sessions gave
        self.watch.renew()
        self.spent = False

    def run(self, chunk: Chunk, stop: Callable[[], bool] | None = None) -> None:
        """Run the tasks of a chunk and send their outcomes.

        Args:
            chunk: what to run; its call has been opened.
            stop: asked whenever results leave; if it says so, the rest of the chunk is dropped.

        Raises:
            KeyboardInterrupt: only where ``run`` is called in the user's own main thread, when Ctrl-C
                was pressed (and not when the task itself raised it).
        """
        board = self.board
        if self.watch.wanted(chunk.call):
            self.watch.begin()
        if chunk.call.task_timeout is not None:
            board[STARTED] = monotonic_ns()  # before it shows as running, so that no old time counts
        board[OFFSET] = 0
        board[CHUNK] = chunk.id
        before = current.task, current.worker
        current.worker = self._number
        values: list[Any] = []
        current.task = TaskIndex(chunk.call.seed, chunk.start, values)
        try:
            function = self._function(chunk)
            items, sealed = self._items(chunk)
        except SetupError as error:
            self.send(SetupFailed(chunk.id, error.failure))
        except FunctionUnknownError as error:
            unknown = unknown_of(chunk.call)
            if unknown:
                self.send(Refused(chunk.id, unknown))
            else:  # it came with its code, which needs what is not here
                self._fail_all(chunk, error)
        except BaseException as error:  # opening the function is the user's code, and may even exit
            self._fail_all(chunk, error)
        else:
            if self.watch.wanted(chunk.call):
                self.watch.started(self._setups.taken())
            watch = self.watch if self.watch.wanted(chunk.call) else None
            work = Pass(chunk, function, items, sealed, values)
            run = ChunkRun(work, self.send, self.worker, board, self.flusher, watch, stop, self._ledger)
            self.spent = run.run()
        finally:
            current.task, current.worker = before
        # Not where an exception passes by: then this worker ends, and the board says in which task.
        board[CHUNK] = 0

    def _function(self, chunk: Chunk) -> Callable[..., Any]:
        call = chunk.call
        function = self._functions.get(call.id)
        if function is None:
            function = self._opened(call)
            extras = self._setups.enter(chunk)
            if extras:
                function = functools.partial(function, *extras)
            if call.id in self._calls:
                self._functions[call.id] = function
        return function

    def _opened(self, call: Call) -> Callable[..., Any]:
        if call.session is not None:
            return self._setups.open(call.session).opened(call.function)
        return unpack_function(call.function) if isinstance(call.function, Packed) else call.function

    def _items(self, chunk: Chunk) -> tuple[Sequence[Any], bool]:
        if isinstance(chunk.items, Packed):
            return unpack_batch(chunk.items)
        return chunk.items, False

    def _fail_all(self, chunk: Chunk, cause: BaseException) -> None:
        error = SerializationError(
            f"the worker could not open the function or its arguments: {type(cause).__name__}: {cause}; "
            "is the module that defines it importable where the worker runs?"
        )
        error.__cause__ = cause
        in_process = not isinstance(chunk.items, Packed)
        failures = tuple(
            describe(error, offset, "not opened", self.worker, in_process) for offset in range(chunk.size)
        )
        values: list[Any] = [None] * chunk.size
        self.send(Outcomes(chunk.id, 0, chunk.size, values if in_process else seal(values), failures))
