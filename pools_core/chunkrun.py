"""Runs the tasks of one chunk, and sends what comes of them.

When results leave (promise 5 of the contract): after a task, if the last ones left a millisecond ago or
more; so each result of tasks longer than that leaves before the next task starts.  Results of shorter
tasks gather for up to that millisecond; should a slow task then follow, the ``Flusher`` sends them while
it runs.

The *board* tells whoever shares it which task is running, so that a death can be laid at its door.  One by
one, that is a write per task.  Tasks that have proved to take some microseconds go in *runs*, with nothing
between them; then the board says from which task on to which, and a run is short, or is cut short: no longer
than about a millisecond, after which the ``Flusher`` ends it behind the task that it is in.

A chunk of several *units* was made of chunks that were too short to go alone, and nobody shall notice.  None
of its tasks may wait behind a slow one: when a task takes more than a millisecond, the ``Flusher`` gives the
units behind it back.  And each runs exactly once: they go one by one, and what has not left is in the
``Ledger``.

A chunk that is a *trial* was made as large as it is on a guess.  When it is late, the ``Flusher`` gives back
all that is behind the running task, so that it does not keep for one worker what others could do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic, monotonic_ns

from pools_core.calls import Chunk, Convention, FailedTask, Outcomes, Packed, Returned, Shortened, WorkerEvent
from pools_core.failures import describe, shown
from pools_core.flusher import GATHER, Flusher
from pools_core.hints import TYPE_CHECKING, Record
from pools_core.ledger import Ledger
from pools_core.payload import PLAIN, Sealed, pack, seal, types_of, unpack
from pools_core.seeding import Board
from pools_core.setup import OFFSET, SPAN_SHIFT, STARTED
from pools_core.watch import Watch

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["ChunkRun", "Pass"]

PROOF: Final = 16
"""Tasks that go one by one first, and after each failure; they have to be short for others to go in runs."""

SHORT: Final = 20e-6
"""Seconds up to which a task counts as short.  A run then saves a good part of what a task costs."""

FIRST_RUN: Final = 64
"""Tasks of the first run; each may be twice as long as the one before, up to ``GATHER`` in all."""


LATE: Final = 0.008
"""Seconds after which a trial gives back what has not begun: twice as long as a chunk is meant to take."""


class Pass(Record):
    """What is to be run.

    Attributes:
        chunk: the chunk.
        function: its function, with what its session gives bound to it.
        items: its items.
        sealed: whether each item has still to be unpacked.
        values: where results are put, so that its length is the offset of the running task.
    """

    chunk: Chunk
    function: Callable[..., Any]
    items: Sequence[Any]
    sealed: bool
    values: list[Any]


class ChunkRun:
    """One pass over one chunk.

    Args:
        work: what is to be run.
        send: takes outcomes to the caller's side.
        worker: the worker's name.
        board: where it is told which task is running.
        flusher: sends gathered results while a slow task runs; None where nobody could take them.
        watch: measures the tasks; None where nobody wants to know.
        stop: asked whenever results leave; if it says so, the rest of the chunk is dropped.
        ledger: keeps results of a chunk of several units until they have left.
    """

    def __init__(
        self,
        work: Pass,
        send: Callable[[WorkerEvent], None],
        worker: str,
        board: Board,
        flusher: Flusher | None,
        watch: Watch | None,
        stop: Callable[[], bool] | None,
        ledger: Ledger | None = None,
    ) -> None:
        self._send = send
        self._worker = worker
        self._board = board
        self._chunk = chunk = work.chunk
        self._flusher = flusher if chunk.size > 1 else None
        self._function = work.function
        self._items = work.items
        self._sealed = work.sealed
        self._stop = stop
        self._packs = isinstance(chunk.items, Packed)
        self._watch = watch
        self._spent = False
        # What the flusher also touches, under the lock: the results so far and how many have left, the items
        # of the run that is under way, those that are gone through one by one, how many tasks there are,
        # and whether some may be given back, which is so until the last word has left.
        self._lock = threading.Lock()
        self._values = work.values
        self._failures: list[FailedTask] = []
        self._run: list[Any] | None = None
        self._run_start = 0
        self._line: list[Any] = []
        self._line_start = 0
        self._size = chunk.size
        self._ledger = ledger if chunk.unit is not None else None
        self._gives_back = chunk.trial or self._ledger is not None
        self._seen = -1
        self._unwatched = False
        self._plain = True
        self._sent = 0
        self._began = self._since = self._left = 0.0

    def run(self) -> bool:
        """Call the function on every item; in the end everything has been sent.

        Returns:
            Whether the worker has done its share, and is to be replaced.
        """
        self._began = self._since = self._left = monotonic()
        if self._ledger is not None:
            self._ledger.begin(self._chunk.id)
        if self._flusher is None:
            self._loop()
            return self._spent
        self._flusher.watch(self)
        try:
            self._loop()
        finally:
            self._flusher.watch(None)
        return self._spent

    def _loop(self) -> None:
        call = self._chunk.call
        runs = not (
            self._size <= PROOF
            or self._ledger is not None
            or self._sealed
            or self._watch is not None
            or call.task_timeout is not None
            or call.convention is Convention.APPLY
        )
        done, most = 0, FIRST_RUN
        while done < self._size:
            if not runs:
                if not self._one_by_one(done, self._size):
                    return
                done = len(self._values)  # the list may have been cut before a task that was not given back
                continue
            before = monotonic()
            if not self._one_by_one(done, min(done + PROOF, self._size)):
                return
            done = len(self._values)
            per_task = (monotonic() - before) / PROOF
            runs = self._plain or not self._packs
            failed = False
            while runs and done < self._size and per_task < SHORT and not failed:
                most = min(2 * most, int(GATHER / max(per_task, 1e-9)) + 1)
                before = monotonic()
                failed = not self._in_a_run(done, done + most)
                now = monotonic()
                per_task = (now - before) / max(1, len(self._values) - done)
                done = len(self._values)
                runs = self._plain or not self._packs
                if now - self._left >= GATHER and done < self._size and not self._leave(now):
                    return
            most = FIRST_RUN
        self.flush(last=True)

    def _one_by_one(self, start: int, end: int) -> bool:
        """Run tasks, saying of each that it runs; return whether to go on.

        What stands here is paid by every task that is not known to be short.
        """
        function, board, append, sealed = self._function, self._board, self._values.append, self._sealed
        one = self._chunk.call.convention is Convention.ONE
        star = self._chunk.call.convention is Convention.STAR
        packs, plain = self._packs, PLAIN
        timed = self._chunk.call.task_timeout is not None
        watch = self._watch
        final = self._chunk.size - 1
        items: Sequence[Any] = self._items
        ledger = self._ledger
        if self._gives_back:
            items = self._next_in_line(start, end)
        elif end - start != self._chunk.size:
            items = items[start:end]
        for offset, item in enumerate(items, start):
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
                    self._plain = False
                    value = self._packed(value, offset)
            except BaseException as error:
                # Whatever a task raises fails that task alone, SystemExit and KeyboardInterrupt included;
                # but a Ctrl-C that happened to land in it is not the task's.
                if not packs and _is_ctrl_c(error):
                    raise
                self._failures.append(self._describe(error, offset, item))
                self._left = 0.0 if ledger is not None else self._left
                value = None
            if ledger is None:
                append(value)
            elif not self._noted(value, ledger):
                self._left = 0.0  # it leaves before the next task starts
            now = monotonic()
            if watch is not None and watch.task_done(self._chunk.call, offset, item, now):
                self._spent = True
                if offset != final:
                    self.flush()
                    self._give_back_rest()
                    return False
            if now - self._left >= GATHER:
                if offset != final and not self._leave(now):
                    return False
            elif self._unwatched and offset != final:
                self._be_watched()
        return True

    def _next_in_line(self, start: int, end: int) -> list[Any]:
        """Return items to go through one by one, as a list that can be cut while that is done."""
        with self._lock:
            self._line, self._line_start = list(self._items[start : min(end, self._size)]), start
            return self._line

    def _give_back_rest(self) -> None:
        """The worker is spent: what has not run is for another."""
        with self._lock:
            self._gives_back = False
            self._send(Returned(self._chunk.id))

    def _noted(self, value: Any, ledger: Ledger) -> bool:
        """Keep a result; return False if it is not in the ledger."""
        with self._lock:  # the flusher clears the ledger
            self._values.append(value)
            return type(value) in PLAIN and ledger.note(value)

    def _packed(self, value: Any, offset: int) -> Sealed:
        packed = pack(value, f"the result of task {self._chunk.start + offset}")
        if packed.buffers:
            self._left = 0.0  # they are views of live memory, which the next task may change
        return packed

    def _leave(self, now: float) -> bool:
        """Send the results so far; return whether to go on."""
        self._left = now
        self.flush()
        if self._stop is not None and self._stop():
            self.flush(last=True)
            return False
        return True

    # --- runs ---------------------------------------------------------------------------------------

    def _in_a_run(self, start: int, end: int) -> bool:
        """Run tasks with nothing between them; return False if one failed, which was the last one to run."""
        function, values = self._function, self._values
        with self._lock:
            run = list(self._items[start : min(end, self._size)])
            self._run, self._run_start = run, start
            self._board[OFFSET] = start | len(run) << SPAN_SHIFT
        if self._unwatched:
            self._be_watched()  # it may have to be cut
        failed = None
        item = None
        try:
            if self._chunk.call.convention is Convention.ONE:
                for item in run:
                    values.append(function(item))
            else:
                for item in run:
                    values.append(function(*item))
        except BaseException as error:
            if not self._packs and _is_ctrl_c(error):
                raise
            failed = self._describe(error, len(values), item)
        with self._lock:
            if failed is not None:
                self._failures.append(failed)
                values.append(None)
            if self._packs:
                self._pack_run(start)
            # Only now: as long as there is a run, the flusher looks whether its results are plain.
            self._run = None
            self._board[OFFSET] = len(values)
        if self._unwatched:
            self._be_watched()  # what the run brought may have to wait behind the next task
        return failed is None

    def _pack_run(self, start: int) -> None:
        """Pack what a run brought that is not plain.  Under the lock."""
        values = self._values
        if types_of(values[start:]) <= PLAIN:
            return
        self._plain = False
        for offset in range(max(start, self._sent), len(values)):
            if type(values[offset]) not in PLAIN:
                try:
                    values[offset] = self._packed(values[offset], offset)
                except BaseException as error:  # as in ``_one_by_one``
                    self._failures.append(self._describe(error, offset, self._items[offset]))
                    values[offset] = None
        self._failures.sort(key=_offset)

    def cut(self) -> bool:
        """End the run that is under way behind its running task, and send what can leave.  By the flusher.

        Returns:
            Whether that was all: the flusher may sleep, and is called when there is more (``_be_watched``).
        """
        self._unwatched = True  # first: a result that comes after what is looked at here calls the flusher
        with self._lock:
            run = self._run
            if run is not None:
                # The iteration ends when it comes to the end of the list, so from here on no task starts;
                # only then is it certain which one is running.
                del run[len(self._values) - self._run_start + 1 :]
                self._board[OFFSET] = len(self._values)
            all_given_back = not self._gives_back or self._shorten()
        self.flush()
        return all_given_back

    def _be_watched(self) -> None:
        """Call the flusher, which sleeps: there is a result again that may have to leave."""
        self._unwatched = False
        if self._flusher is not None:
            self._flusher.call()

    def _shorten(self) -> bool:
        """Give back the units behind a task that is slow; return whether there are none any more.

        Under the lock, before the last outcomes leave.  It is slow if it was running the last time as well;
        in a trial, when the chunk is late.  As in a run, no task starts that is not in the list any more.
        """
        done = len(self._values)
        slow, self._seen = done == self._seen, done
        if self._chunk.trial:
            slow = monotonic() - self._began > LATE
        if slow and self._end_of_unit() < self._size:
            del self._line[max(0, self._end_of_unit() - self._line_start) :]
            # As with a run it is certain only now which task is running: those of a trial are added to the
            # results without the lock, and several may have ended since the list was looked at.
            size = self._end_of_unit()
            if size < self._size:
                self._size = size
                self._send(Shortened(self._chunk.id, size))
        return self._end_of_unit() >= self._size

    def _end_of_unit(self) -> int:
        """Return how many tasks there are up to the end of the running one's unit."""
        unit = self._chunk.cut_by or 1
        return (len(self._values) // unit + 1) * unit

    # --- results ------------------------------------------------------------------------------------

    def flush(self, last: bool = False) -> None:
        """Send the results that have not left yet."""
        with self._lock:
            first = self._sent
            values = self._values[first:]
            if self._run is not None and self._packs and not types_of(values) <= PLAIN:
                values = values[: self._run_start - first]  # the rest has still to be packed
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
            packed = seal(values, self._plain) if self._packs else values
            times = None if self._watch is None else self._watch.take(self._chunk.call)
            self._send(Outcomes(self._chunk.id, first, len(values), packed, failures, seconds, last, times))
            if self._ledger is not None:
                self._ledger.sent(self._sent)
            if last:
                self._gives_back = False

    def _describe(self, error: BaseException, offset: int, item: Any) -> FailedTask:
        arguments = "not opened" if type(item) is Sealed else shown(item, self._chunk.call.convention)
        return describe(error, offset, arguments, self._worker, not self._packs)


def _offset(failed: FailedTask) -> int:
    return failed.offset


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
