"""What a backend must write: one ``Engine``.

An engine takes chunks to workers and brings outcomes back.  It knows nothing of map, order, retries
or progress; those are written once, in the core, at both ends:

    Pool ── open/submit ─▶ Engine ═══ carries ═══▶ Runner ── calls the user's function
    Pool ◀──── wait ────── Engine ◀══ carries ════ Runner

Who calls what: a pool calls ``open``, ``submit``, ``cancel``, ``close`` and ``room`` from any thread,
one at a time; it calls ``wait`` from one thread at a time, possibly while another is in ``submit``.
``wake`` may come from anywhere.  ``take_back`` is called by whoever has others to give a chunk to, such as
the node of a cluster, as a pool calls ``submit``.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple

from pools_core.calls import Call, Carried, Chunk, Session, WorkerEvent
from pools_core.errors import PoolsError

__all__ = [
    "Broken",
    "ChunkLost",
    "Engine",
    "Event",
    "Interrupted",
    "Logged",
    "SessionLost",
    "SessionOver",
    "TimedOut",
    "WorkerDied",
    "WorkerStarted",
]


class WorkerStarted(NamedTuple):
    """A worker is ready for its first chunk.

    Attributes:
        worker: its name, as text.
        number: its number, from 0; None where workers have none.
        seconds: how long it took to start.
    """

    worker: str
    number: int | None = None
    seconds: float = 0.0


class WorkerDied(NamedTuple):
    """A worker ended that had not been told to.

    Attributes:
        worker: its name, as text.
        pid: its process id.
        host: the machine that it ran on.
        exitcode: exit code, minus the signal number, or None when unknown.
        memory: bytes of resident memory after its last task, where that was being watched.
    """

    worker: str
    pid: int
    host: str
    exitcode: int | None
    memory: int | None = None


class TimedOut(NamedTuple):
    """A task overran its call's ``task_timeout`` and the engine killed it.

    Attributes:
        worker: the name of the worker that ran it, as text.
    """

    worker: str


class Interrupted(NamedTuple):
    """The work stopped through no fault of the task: its node was lost, or stopped on purpose.

    Attributes:
        why: what happened, as text.
    """

    why: str


class ChunkLost(NamedTuple):
    """No further outcome of this chunk will come from where it was.

    Attributes:
        chunk: its id.
        started: offset of the task that was running, or None when none was; ``setup.INIT`` if it was
            ``worker_init``.
        cause: what happened.
        span: from there on that many tasks, one of which was running; 1 if it is known which.
    """

    chunk: int
    started: int | None
    cause: WorkerDied | TimedOut | Interrupted
    span: int = 1


class Broken(NamedTuple):
    """The engine cannot run anything any more, such as when no worker can be started.

    Attributes:
        error: what every call in flight raises.
    """

    error: PoolsError


class SessionLost(NamedTuple):
    """A worker ended while it ran a session's exit function.

    Attributes:
        session: the session's id.
        cause: what happened.
    """

    session: int
    cause: WorkerDied | TimedOut


class SessionOver(NamedTuple):
    """Every worker has said what came of a session's end; follows the last ``SessionEnded`` of it.

    Attributes:
        session: the session's id.
    """

    session: int


class Logged(NamedTuple):
    """A record of a worker's log.

    Attributes:
        data: see ``pools_core.logs``.
        chunk: id of the chunk that the worker was at; None if at none.
    """

    data: bytes
    chunk: int | None = None


Event = WorkerEvent | ChunkLost | WorkerStarted | WorkerDied | Broken | SessionLost | SessionOver | Logged
"""What an engine's ``wait`` says: the words of a worker, or its own."""


class Engine(abc.ABC):
    """Carries chunks to workers and outcomes back."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Option names that this engine honours beyond the basics, such as ``"task_timeout"``."""

    inline: ClassVar[bool] = False
    """Whether ``wait`` runs the tasks in the calling thread: then each thread only ever waits for
    what it submitted itself, may do so within a task, and no helper thread is started."""

    same_process: ClassVar[bool] = False
    """Whether workers share the caller's memory: then nothing is pickled."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many tasks can run at once; may change while the pool is open."""

    @property
    def shortens(self) -> bool:
        """Whether its workers give back the end of a chunk of several units, or of a trial (see ``Chunk``).

        Then chunks of a size that the user chose go together while they are short, and a function that was
        called before is expected to take as long as then.  May change while the pool is open.
        """
        return False

    def hold(self, view: memoryview) -> Carried | None:
        """Put a large buffer of an argument where the engine wants it, such as in shared memory.

        Called from any thread, while the caller's data is pickled.  What is returned stands for the buffer
        in ``Packed.buffers``; it is let go of when the chunk is done with.

        Args:
            view: the bytes; they may change as soon as this returns.

        Returns:
            None if there is no better place than the message; then the pool copies the buffer.
        """
        return None

    def prepare(self) -> None:  # noqa: B027  most engines have nothing to do here
        """Called in the caller's thread before the pool starts a thread of its own.

        For an engine that has something to do while there are no threads yet, such as forking.
        """

    @abc.abstractmethod
    def room(self) -> int:
        """How many more chunks it can take to advantage now; never blocks."""

    @abc.abstractmethod
    def open(self, call: Call) -> None:
        """A call begins; its chunks follow.  Never blocks."""

    def check(self, session: Session) -> None:  # noqa: B027  most engines can carry any
        """Called in the caller's thread before the first call of a session.

        Raises:
            SerializationError: its shared object has to be pickled here, and cannot be.
        """

    @abc.abstractmethod
    def close(self, call: Call) -> None:
        """A call has ended; its function may be forgotten.  Never blocks."""

    @abc.abstractmethod
    def end(self, session: Session, leave: bool) -> None:
        """A session is over, and every worker that has had a chunk of it shall take it down.

        Each of them says so (``Runner.end``) by a ``SessionEnded``; a ``SessionLost`` stands for one that
        ended first.  After the last, or at once if there are none, comes one ``SessionOver``.
        Never blocks.

        Args:
            session: the session; no chunk of it is out.
            leave: whether exit functions run; else workers only forget it, and nothing is said.
        """

    @abc.abstractmethod
    def submit(self, chunk: Chunk) -> None:
        """Take a chunk to a worker; never blocks."""

    def together(self) -> AbstractContextManager[None]:
        """Return a context for submitting several chunks that are at hand, or soon will be.

        What has to be started for them may be started at its end; outside of it, at once.
        """
        return nullcontext()

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Wait until something happens, and return what has happened since the last time.

        One wait on everything; no polling.

        Args:
            timeout: seconds after which to return an empty sequence; None for no limit.
        """

    def fileno(self) -> int | None:
        """Return a descriptor that can be read from once ``wait`` has something to do, or None.

        With it, an event loop can take the place of a thread in ``wait``: it calls ``wait(0)`` when the
        descriptor can be read from, when it is ``due``, and after anything else that it asks of the engine.
        """
        return None

    def due(self) -> float | None:
        """Return the seconds until ``wait`` has something to do by itself; None if nothing is to come."""
        return None

    def intact(self) -> bool:
        """Whether an exception that left ``wait`` (Ctrl-C) cannot have lost an event or torn the books.

        Asked after such an exception only.  If not, the pool makes a new engine and sends again what
        was out.  An engine whose ``wait`` is interruptible only while it blocks can say so.
        """
        return False

    @abc.abstractmethod
    def wake(self) -> None:
        """Make the ``wait`` that is under way, or else the next one, return at once."""

    @abc.abstractmethod
    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Stop a chunk; nothing more is said of it.

        Args:
            chunk: one that was submitted and is not finished.
            kill: also stop the task that is running, where the engine can; else that task is let
                finish and the rest of the chunk is dropped.
        """

    def take_back(self, chunk: Chunk) -> bool:
        """Take a chunk back that has not begun, so that it can run elsewhere.  Never blocks.

        Args:
            chunk: one that was submitted.

        Returns:
            True if it has not begun and never will; nothing is said of it.  False if it may have begun, or
            this engine cannot tell; nothing has changed.
        """
        return False

    @abc.abstractmethod
    def shutdown(self, wait: bool, kill: bool) -> None:
        """End every worker.  May be called twice, and from another thread than the one in ``wait``.

        A ``wait`` that is under way returns; what it returns is no longer of interest.

        Args:
            wait: return only when they have ended.
            kill: at once, whatever they are doing; else after what they are doing.
        """
