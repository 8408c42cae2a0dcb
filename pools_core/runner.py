"""The worker's side of every backend: runs the tasks of a chunk and answers with outcomes.

    chunk ─▶ open its items ─▶ call the function, one by one ─▶ outcomes, in parts if slow

When results leave the worker (promise 5 of the contract): after a task, if the last ones left a
millisecond ago or more; so each result of tasks longer than that leaves before the next task starts.
Results of shorter tasks gather for up to that millisecond; should a slow task then follow, the
``Flusher`` sends them while it runs.

The *board* tells whoever shares it which task is running, so that a death can be laid at its door:
one write per task, no lock, no system call.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from time import monotonic, monotonic_ns
from typing import Any, Final

from pools_core.calls import (
    Call,
    Chunk,
    Convention,
    FailedTask,
    Outcomes,
    Packed,
    Refused,
    Returned,
    SetupFailed,
    WorkerEvent,
)
from pools_core.errors import SerializationError
from pools_core.failures import describe, shown
from pools_core.payload import (
    PLAIN,
    FunctionUnknownError,
    Sealed,
    is_by_value,
    pack,
    seal,
    unpack,
    unpack_batch,
    unpack_function,
)
from pools_core.seeding import Board, TaskIndex, current
from pools_core.setup import BOARD_SLOTS, CHUNK, OFFSET, STARTED, SetupError, Setups
from pools_core.watch import Watch

__all__ = ["BOARD_SLOTS", "CHUNK", "OFFSET", "STARTED", "Flusher", "Runner"]

GATHER: Final = 0.001
"""Seconds that results of short tasks may gather before they leave; the contract names it."""

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
    ) -> None:
        self.worker = worker
        self.board: Board = [0] * BOARD_SLOTS if board is None else board
        self.send = send
        self.flusher = flusher
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
        before = current.task
        current.task = TaskIndex(chunk.call.seed, chunk.start, board, OFFSET)
        try:
            function = self._function(chunk)
            items, sealed = self._items(chunk)
        except SetupError as error:
            self.send(SetupFailed(chunk.id, error.failure))
        except FunctionUnknownError as error:
            if isinstance(chunk.call.function, Packed) and is_by_value(chunk.call.function):
                self._fail_all(chunk, error)
            else:
                self.send(Refused(chunk.id))
        except BaseException as error:  # opening the function is the user's code, and may even exit
            self._fail_all(chunk, error)
        else:
            if self.watch.wanted(chunk.call):
                self.watch.started(self._setups.taken())
            _Run(self, chunk, function, items, sealed, stop).run()
        finally:
            current.task = before
        # Not where an exception passes by: then this worker ends, and the board says in which task.
        board[CHUNK] = 0

    def _function(self, chunk: Chunk) -> Callable[..., Any]:
        call = chunk.call
        function = self._functions.get(call.id)
        if function is None:
            packed = call.function
            function = unpack_function(packed) if isinstance(packed, Packed) else packed
            extras = self._setups.enter(chunk)
            if extras:
                function = functools.partial(function, *extras)
            if call.id in self._calls:
                self._functions[call.id] = function
        return function

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


class _Run:
    """One pass over one chunk."""

    def __init__(
        self,
        runner: Runner,
        chunk: Chunk,
        function: Callable[..., Any],
        items: Sequence[Any],
        sealed: bool,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._send = runner.send
        self._worker = runner.worker
        self._board = runner.board
        self._flusher = runner.flusher if chunk.size > 1 else None
        self._chunk = chunk
        self._function = function
        self._items = items
        self._sealed = sealed
        self._stop = stop
        self._packs = isinstance(chunk.items, Packed)
        self._runner = runner
        self._watch = runner.watch if runner.watch.wanted(chunk.call) else None
        # What the flusher also touches, under the lock: the results so far and how many have left.
        self._lock = threading.Lock()
        self._values: list[Any] = []
        self._failures: list[FailedTask] = []
        self._sent = 0
        self._since = 0.0

    def run(self) -> None:
        """Call the function on every item; in the end everything has been sent."""
        self._since = monotonic()
        if self._flusher is None:
            self._loop()
            return
        self._flusher.watch(self)
        try:
            self._loop()
        finally:
            self._flusher.watch(None)

    def _loop(self) -> None:
        """The hot loop: what stands here is paid by every task."""
        function, board, append, sealed = self._function, self._board, self._values.append, self._sealed
        one = self._chunk.call.convention is Convention.ONE
        star = self._chunk.call.convention is Convention.STAR
        packs, plain = self._packs, PLAIN
        timed = self._chunk.call.task_timeout is not None
        watch = self._watch
        since, final = self._since, self._chunk.size - 1
        for offset, item in enumerate(self._items):
            if timed:
                board[STARTED] = monotonic_ns()
            board[OFFSET] = offset
            try:
                if sealed:
                    item = unpack(item)  # noqa: PLW2901  what a failure shows is the opened one
                if one:
                    value = function(item)
                elif star:
                    value = function(*item)
                else:
                    value = function(*item[0], **item[1])
                if packs and type(value) not in plain:
                    value = pack(value, f"the result of task {self._chunk.start + offset}")
                    if value.buffers:
                        since = 0.0  # they are views of live memory, which the next task may change
            except BaseException as error:
                # Whatever a task raises fails that task alone, SystemExit and KeyboardInterrupt included;
                # but a Ctrl-C that happened to land in it is not the task's.
                if not packs and _is_ctrl_c(error):
                    raise
                self._failures.append(self._describe(error, offset, item))
                value = None
            append(value)
            now = monotonic()
            if watch is not None and watch.task_done(self._chunk.call, offset, item, now):
                self._runner.spent = True
                if offset != final:
                    self.flush()
                    self._send(Returned(self._chunk.id))
                    return
            if now - since >= GATHER and offset != final:
                since = now
                self.flush()
                if self._stop is not None and self._stop():
                    break
        self.flush(last=True)

    def flush(self, last: bool = False) -> None:
        """Send the results that have not left yet."""
        with self._lock:
            first = self._sent
            values = self._values[first:]
            if not values and not last:
                return
            failures = tuple(self._failures)
            self._failures.clear()
            self._sent = first + len(values)
            if failures and failures[-1].offset >= self._sent:
                # The flusher came between a failure and its placeholder: the next part carries it.
                self._failures.append(failures[-1])
                failures = failures[:-1]
            now = monotonic()
            seconds, self._since = now - self._since, now
            # What has left need not be kept: a task's result may be large.
            self._values[first : self._sent] = [None] * len(values)
            packed = seal(values) if self._packs else values
            times = None if self._watch is None else self._watch.take(self._chunk.call)
            self._send(Outcomes(self._chunk.id, first, len(values), packed, failures, seconds, last, times))

    def _describe(self, error: BaseException, offset: int, item: Any) -> FailedTask:
        arguments = "not opened" if type(item) is Sealed else shown(item, self._chunk.call.convention)
        return describe(error, offset, arguments, self._worker, not self._packs)


class Flusher:
    """Sends gathered results of short tasks while a slow one runs.

    One thread, started with the first chunk that needs it and asleep for good between chunks.
    """

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._busy = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, run: _Run | None) -> None:
        """Look after this chunk from now on; None: there is none."""
        self._run = run
        if run is None:
            self._busy.clear()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="pools-flusher", daemon=True)
            self._thread.start()
        self._busy.set()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._stopping.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._busy.wait()
            # Not a wait for somebody else: the millisecond is what the contract allows results to gather.
            self._stopping.wait(GATHER)
            run = self._run
            if run is not None:
                try:
                    run.flush()
                except OSError:
                    return  # the caller is gone, and the worker's own thread is about to find out


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether this KeyboardInterrupt comes from the keyboard and not from a ``raise`` in the task.

    Python's own SIGINT handler is written in C and raises between two instructions; a task that raises
    one does so by a ``raise`` statement, which is then the last instruction of the innermost frame.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    if tb is None:
        return True
    import dis

    return tb.tb_frame.f_code.co_code[tb.tb_lasti] != dis.opmap["RAISE_VARARGS"]
