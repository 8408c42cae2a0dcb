"""One worker as the engine sees it: its line, its board, its process, and the chunks that it has."""

from __future__ import annotations

import marshal
import mmap
import os
import socket
import tempfile
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Any

from pools_core import blas
from pools_core.calls import Chunk, Outcomes, Session
from pools_core.frames import Kind
from pools_core.ledger import unsent
from pools_core.payload import seal
from pools_core.setup import INIT, MEMORY, Running, running
from pools_multicore.arena import Arena, Reader
from pools_multicore.channel import FrameReader, Outbox
from pools_multicore.inherit import lifeline
from pools_multicore.process import Process, Starter
from pools_multicore.settings import MulticoreSettings
from pools_multicore.standing import place_of_next
from pools_multicore.worker import BOARD_BYTES, SHARED_BYTES, TICKET, WorkerFds, worker_name

__all__ = ["Seat", "WorkerHandle"]


@dataclass(slots=True)
class Seat:
    """A chunk that was sent to a worker.

    Attributes:
        chunk: the chunk.
        ticket: its number in the pipe, 0 when it went to a worker that was to run it at once and has none.
        dropped: nobody wants its outcomes any more.
        seconds: time that the parts so far took.
        received: tasks of it whose outcomes have arrived.
    """

    chunk: Chunk
    ticket: int
    dropped: bool = False
    seconds: float = 0.0
    received: int = 0


class WorkerHandle:
    """What the engine knows of one worker."""

    def __init__(
        self,
        number: int,
        name: str,
        settings: MulticoreSettings,
        arena: Arena,
        threads: tuple[int, bool] | None,
        levels: Any,
    ) -> None:
        self.number = number
        self._threads = threads
        self._levels = levels
        self.label = name
        self._settings = settings
        self._since = monotonic()
        self.sock, far = socket.socketpair()
        self.sock.setblocking(False)
        self._side, far_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._side.setblocking(False)
        self.memory_reader = Reader(self._side)
        self.reader = FrameReader(self.memory_reader.view)
        self.outbox = Outbox(self.sock, lambda part: arena.put(part, number, self._side))
        self.watching_for_room = False
        self.tickets_out, self.tickets_in = os.pipe()
        os.set_blocking(self.tickets_out, False)
        self.last_ticket = 0
        self.stale_ticket = 0
        """The last one that was taken back while the worker may still come upon its chunk's frame; or 0."""
        board_fd = board_file()
        self._memory = mmap.mmap(board_fd, SHARED_BYTES)
        whole = memoryview(self._memory)
        self.board = whole[:BOARD_BYTES].cast("q")
        self.ledger = whole[BOARD_BYTES:]
        tickets, life = os.dup(self.tickets_out), os.dup(lifeline())
        self._fds: WorkerFds | None = WorkerFds(far.detach(), tickets, board_fd, life, far_side.detach())
        """What the process will be born with, until it is."""
        self.process: Process | None = None
        """None until it has been started."""
        self._counted_on: set[int] = set()
        """Ids of the shared objects that are not sent to it, since it will be born with them."""
        self.pidfd: int | None = None
        self.ready = False
        self.condemned = False
        """Whether its death is the engine's own doing."""
        self.retired = False
        """Whether it has said that it ends."""
        self.knows: set[int] = set()
        """Calls that it has been told of."""
        self.sessions: dict[int, Session] = {}
        """Sessions that it has been told of."""
        self.ending: dict[int, Session] = {}
        """Sessions that it has been told to take down, and has not said so."""
        self.seats: deque[Seat] = deque()
        self.timed_out: Running | None = None

    def configure(self, starter: Starter) -> None:
        """Put in line what it reads first; it is all there when the process begins to read."""
        settings = self._settings
        config = {
            "name": self.label,
            "number": self.number,
            "daemon": settings.daemon,
            "place": place_of_next(),
            "cpus": None if settings.cpu_ids is None else settings.cpu_ids[self.number],
            "max_memory": settings.max_worker_memory,
            "threads": self._threads,
            "announce": {} if self._threads is None else announcement(*self._threads),
            "levels": self._levels,
            "spin": settings.spin(),
            **starter.config(),
        }
        self.outbox.put(Kind.CONFIG, [marshal.dumps(config, 2)])

    def start(self, starter: Starter) -> None:
        """Start the process, and do nothing else: the next one may be waiting for its turn.

        It has none afterwards if it was not born with what was counted on: another thread began meanwhile, as
        user code may when it is pickled, and it came from a template that is older.

        Raises:
            OSError: no process can be had.
        """
        fds, self._fds = self._fds, None  # in a fork all that is this object's is closed
        if fds is None:
            raise OSError("its start was interrupted")
        try:
            process = starter.start(fds)
        finally:
            for fd in fds:
                os.close(fd)
        if self._counted_on <= process.inherits:
            self.process = process
        else:
            process.kill(tree=False)
            process.forget()

    def watch(self) -> int | None:
        """Return a descriptor that says when the process has ended; None where the system has none."""
        self.pidfd = pidfd_of(self.pid)
        return self.pidfd

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def name(self) -> str:
        """Its name for messages."""
        return worker_name(self.pid)

    @property
    def inherits(self) -> frozenset[int]:
        """Ids of the shared objects that it was born with."""
        return frozenset() if self.process is None else self.process.inherits

    def will_have(self, shared: int, starter: Starter) -> bool:
        """Whether it was born with a shared object, or will be, which ``start`` sees to."""
        if self.process is not None:
            return shared in self.process.inherits
        if starter.inherits(shared):
            self._counted_on.add(shared)
        return shared in self._counted_on

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return monotonic() - self._since

    @property
    def memory(self) -> int | None:
        """Bytes of resident memory after its last task, where that is watched."""
        return self.board[MEMORY] << 10 or None

    def limits(self) -> list[float]:
        """Return the time limits of what it has to do, in seconds; empty if there are none."""
        # Of those that it knows as well: it may end them of its own accord, because it is spent.
        found = [session.exit_timeout for session in (*self.ending.values(), *self.sessions.values())]
        for seat in self.seats:
            session = seat.chunk.call.session
            found += (seat.chunk.call.task_timeout, None if session is None else session.init_timeout)
        return [limit for limit in found if limit is not None]

    def limit_of(self, running: Running) -> float | None:
        """Return the time limit of what it is running, in seconds; None if it has none."""
        chunk = running.chunk
        if chunk < 0:
            leaving = self.ending.get(-chunk) or self.sessions.get(-chunk)
            return None if leaving is None else leaving.exit_timeout
        seat = next((seat for seat in self.seats if seat.chunk.id == chunk), None)
        if seat is None:
            return None
        session = seat.chunk.call.session
        if running.offset != INIT:
            return seat.chunk.call.task_timeout
        return None if session is None else session.init_timeout

    def running(self) -> Running | None:
        """Return what it runs, or None."""
        return running(self.board)

    def unsent(self) -> list[Outcomes]:
        """Return what it had done of its chunk and not sent, once it has ended."""
        found: list[Outcomes] = []
        for seat in self.seats:
            if not seat.dropped and (values := unsent(self.ledger, seat.chunk.id, seat.received)):
                packed = seal(values, all_plain=True)
                found.append(Outcomes(seat.chunk.id, seat.received, len(values), packed, last=False))
        return found

    def take_ticket(self) -> int | None:
        """Take the oldest ticket back; None if the worker has had them all."""
        try:
            return int(TICKET.unpack(os.read(self.tickets_out, TICKET.size))[0])
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Let go of its descriptors; the map has one, too."""
        self.board.release()
        self.ledger.release()
        self._memory.close()
        self.sock.close()
        self._side.close()
        self.memory_reader.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
        for fd in self._fds or ():
            os.close(fd)
        self._fds = None
        os.close(self.tickets_in)
        os.close(self.tickets_out)


def announcement(threads: int, explicit: bool) -> dict[str, str]:
    """Return the environment variables by which numerical libraries learn how many threads they may use.

    Worked out here, once, and not by each worker while the first task waits for it.
    """
    return blas.environment(threads, {} if explicit else os.environ)


def pidfd_of(pid: int) -> int | None:
    """Return a descriptor that says when a process has ended; None where the system has none.

    End-of-file on its line says so as well, unless a task has forked a process that holds on to it.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def board_file() -> int:
    """Return a descriptor of shared memory without a name."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(SHARED_BYTES)
            return os.dup(file.fileno())
    fd = os.memfd_create("pools-board")
    os.ftruncate(fd, SHARED_BYTES)
    return fd
