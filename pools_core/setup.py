"""The worker's side of sessions: set up before the first task, taken down after the last.

What a session gives to functions comes before their own arguments, in this order: the worker's number,
the shared object, the worker's state.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, monotonic_ns

from pools_core.calls import Chunk, FailedTask, Packed, Session, SessionEnded
from pools_core.failures import describe
from pools_core.hints import TYPE_CHECKING, Record
from pools_core.packed_functions import unpack_function
from pools_core.payload import PLAIN, pack, seal
from pools_core.seeding import Board

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["INIT", "Running", "SetupError", "Setups", "running"]

# The board: integers that the worker writes and others may watch.
CHUNK: Final = 0
"""Id of the chunk that is running; 0 when none is; minus a session's id while its exit runs."""
OFFSET: Final = 1
"""Offset of the task that is running, or about to; or ``INIT``."""
STARTED: Final = 2
"""When it started, in nanoseconds of the monotonic clock; kept where there is a time limit only."""
MEMORY: Final = 3
"""Resident memory after the last task, in KiB; kept with ``max_worker_memory`` only."""
BOARD_SLOTS: Final = 4

INIT: Final = -1
"""The offset while ``worker_init`` runs."""

SPAN_SHIFT: Final = 32
"""Bits of the offset; those above hold the length of a run of short tasks, one of which is running."""


class Running(Record):
    """What a board says.

    Attributes:
        chunk: id of the chunk; minus a session's id while its exit function runs.
        offset: of the task that is running, or of the first one that may be; or ``INIT``.
        span: how many tasks from there on it may be; 1 if it is known.
    """

    chunk: int
    offset: int
    span: int = 1


def running(board: Board) -> Running | None:
    """Return what a worker is running; None if nothing."""
    chunk, offset = board[CHUNK], board[OFFSET]
    if not chunk:
        return None
    if offset < 0:
        return Running(chunk, offset)
    return Running(chunk, offset & (1 << SPAN_SHIFT) - 1, (offset >> SPAN_SHIFT) or 1)


class SetupError(Exception):
    """``worker_init`` raised; carries what travels."""

    def __init__(self, failure: FailedTask) -> None:
        super().__init__(failure.text)
        self.failure = failure


class _Setup:
    """One session: its functions, opened, and what has been set up.

    Args:
        session: the session.

    Attributes:
        extras: what it gives to functions; None until it is set up.

    Raises:
        FunctionUnknownError: this process does not know one of its functions by name.
    """

    def __init__(self, session: Session) -> None:
        from pools_core.namespaces import Namespaces  # few spawned workers have a session at their start

        self._namespaces = Namespaces()
        self._init = None if session.init is None else self.opened(session.init)
        self._packed = isinstance(session.init, Packed)
        self.leave = None if session.exit is None else self.opened(session.exit)
        self.extras: tuple[Any, ...] | None = None

    def opened(self, function: Callable[..., Any] | Packed) -> Callable[..., Any]:
        """Open a function; if it came with its code, it shares globals with others that did."""
        return unpack_function(function, self._namespaces) if isinstance(function, Packed) else function

    def set_up(self, extras: tuple[Any, ...]) -> None:
        """Call ``worker_init``, if there is one.  Raises what it raises."""
        if self._init is not None and self._packed:
            self._namespaces.run(self._init, *extras)
        elif self._init is not None:
            self._init(*extras)
        self.extras = extras


class Setups:
    """The sessions of one worker.

    Args:
        number: the worker's number, from 0.
        worker: its name, for error notes.
        board: see the constants above.
        packs: what leaves is packed.
        send: takes what came of a session's end.
    """

    def __init__(
        self, number: int, worker: str, board: Board, packs: bool, send: Callable[[SessionEnded], None]
    ) -> None:
        self.number = number
        self._seconds = 0.0
        self._worker = worker
        self._board = board
        self._packs = packs
        self._send = send
        self._open: dict[int, _Setup] = {}
        self._failed: tuple[int, FailedTask] | None = None

    def enter(self, chunk: Chunk) -> tuple[Any, ...]:
        """Return what a chunk's session gives to its function, setting it up if this is the first one.

        Raises:
            SetupError: ``worker_init`` raised, or the shared object cannot be opened.
            FunctionUnknownError: this process does not know one of its functions by name.
        """
        session = chunk.call.session
        if session is None:
            return ()
        found = self.open(session)
        if found.extras is None:
            if self._failed is not None and self._failed[0] == session.id:
                raise SetupError(self._failed[1])  # of a chunk that was sent before the caller knew
            started = monotonic()
            try:
                extras = self._extras(session)
                if session.init is not None:
                    self._board[STARTED] = monotonic_ns()
                    self._board[OFFSET] = INIT
                found.set_up(extras)
            except BaseException as error:  # as a task's: what it raises never ends the worker
                self._failed = session.id, self._describe(error, "worker_init")
                raise SetupError(self._failed[1]) from None
            finally:
                self._board[STARTED] = monotonic_ns()  # first, so that init's time is not the task's
                self._board[OFFSET] = 0
                self._seconds += monotonic() - started
        assert found.extras is not None
        return found.extras

    def open(self, session: Session) -> _Setup:
        """Return a session with its functions opened.

        Raises:
            FunctionUnknownError: this process does not know one of them by name.
        """
        found = self._open.get(session.id)
        if found is None:
            found = self._open[session.id] = _Setup(session)
        return found

    def taken(self) -> float:
        """Return the seconds that ``worker_init`` took since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def end(
        self, session: int, leave: bool = True, send: Callable[[SessionEnded], None] | None = None
    ) -> None:
        """Take a session down, and say what came of it, also if there was nothing to take down.

        Args:
            session: its id.
            leave: whether its exit function runs, and anything is said.
            send: to whom it is said; default as for all else.
        """
        found = self._open.pop(session, None)
        if self._failed is not None and self._failed[0] == session:
            self._failed = None
        if not leave:
            return
        started = monotonic()
        values: list[Any] = []
        failure = None
        if found is not None and found.extras is not None and found.leave is not None:
            self._board[STARTED] = monotonic_ns()
            self._board[CHUNK] = -session
            try:
                value = found.leave(*found.extras)
                if self._packs and type(value) not in PLAIN:
                    value = pack(value, "the value of worker_exit", keep=True)
                values.append(value)
            except BaseException as error:  # as above
                failure = self._describe(error, "worker_exit")
            self._board[CHUNK] = 0
        sealed = seal(values) if self._packs else values
        (send or self._send)(SessionEnded(session, self.number, sealed, failure, monotonic() - started))

    def end_all(self) -> None:
        """Take all of them down: the worker is to be replaced."""
        for session in list(self._open):
            found = self._open[session]
            self.end(session, leave=found.extras is not None and found.leave is not None)

    def _extras(self, session: Session) -> tuple[Any, ...]:
        extras: list[Any] = []
        if session.gives_id:
            extras.append(self.number)
        if session.shared is not None:
            extras.append(session.shared.value())
        if session.gives_state:
            extras.append({})
        return tuple(extras)

    def _describe(self, error: BaseException, what: str) -> FailedTask:
        return describe(error, 0, what, self._worker, not self._packs)
