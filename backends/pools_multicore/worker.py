"""A worker process: from its first instruction to its last.

    become a worker ─▶ CONFIG ─▶ READY ─▶ frames, one by one, until STOP or end-of-file

Nothing heavy may be imported here: a spawned worker imports this module first.
"""

from __future__ import annotations

# ``signal`` as it is underneath.  What is above turns numbers into members of enumerations, which costs a
# forked worker its own copy of some 40 pages, and a spawned one the time to define them.
import _signal  # type: ignore[import-not-found]
import contextlib
import fcntl
import functools
import marshal
import mmap
import os
import select
import socket
import struct
import sys
import threading
from types import FrameType

from pools_core import blas
from pools_core.calls import Call, Session, WorkerEvent
from pools_core.frames import Kind, decode_call, decode_chunk, decode_session, encode_event
from pools_core.hints import TYPE_CHECKING, Record
from pools_core.ledger import LEDGER_BYTES, Ledger
from pools_core.runner import BOARD_SLOTS, CHUNK, Flusher, Runner
from pools_core.spinning import Spinner
from pools_multicore.channel import read_frames
from pools_multicore.child import forget_exit_functions, import_main, run
from pools_multicore.line import Line

if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

__all__ = [
    "BOARD_BYTES",
    "N_FDS",
    "REVOKED",
    "SHARED_BYTES",
    "TICKET",
    "WorkerFds",
    "run_worker",
    "worker_name",
]

REVOKED: Final = BOARD_SLOTS
"""Slot of the board that the engine writes: id of a chunk that shall not go on after its running task."""

BOARD_BYTES: Final = mmap.PAGESIZE
SHARED_BYTES: Final = BOARD_BYTES + LEDGER_BYTES
"""What a worker shares with the engine: the board, and behind it the ledger."""
TICKET: Final = struct.Struct("<Q")


class WorkerFds(Record):
    """The descriptors that a worker is born with.

    Attributes:
        channel: its end of the socket pair.
        tickets: reading end of the pipe of tickets.
        board: shared memory of one page.
        lifeline: reading end of a pipe whose writing end only the parent holds.
        side: its end of the socket pair on which descriptors of shared memory go.
    """

    channel: int
    tickets: int
    board: int
    lifeline: int
    side: int


N_FDS: Final = len(WorkerFds._fields)


def worker_name(pid: int) -> str:
    """Return a worker's name for messages."""
    return f"worker {pid} on {socket.gethostname()}"


def run_worker(fds: WorkerFds) -> NoReturn:
    """Be a worker; ends the process."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # the whole tree can be killed as a group, and a terminal's Ctrl-C passes it by
    _signal.set_wakeup_fd(-1)  # an event loop's of the parent
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    # Until it has a handler of its own: a Ctrl-C that came before setpgid would be raised in frames that
    # are a copy of the parent's, and run what these do about it a second time.
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())  # whoever forked may have held signals back for it
    lifeline = _hold_to(fds.lifeline)
    # What they are is not asked of the kernel, which takes four calls each.
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds.channel)
    channel.setblocking(True)
    side = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds.side)
    side.setblocking(True)
    line = Line(channel, side)
    code = 1
    try:
        spinner = Spinner(0.0)
        frames = read_frames(channel, spinner, line.reader.view)
        kind, parts = next(frames)
        assert kind is Kind.CONFIG
        config: dict[str, Any] = marshal.loads(parts[0])
        spinner.most = config["spin"]
        line.reader.drops = config["max_memory"] is not None
        _prepare(config)
        code = run(config, lambda: _Worker(line, fds, config).serve(frames), lifeline)
    except (StopIteration, ConnectionError):
        code = 0  # the parent is gone, or changed its mind
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _prepare(config: dict[str, Any]) -> None:
    """Become what the parent wants."""
    if config["cpus"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, config["cpus"])
    if (environ := config["environ"]) is not None:
        for key in os.environ.keys() - environ.keys():
            del os.environ[key]
        os.environ.update(environ)
    if config["path"] is not None:
        sys.path[:] = config["path"]
    if config["cwd"] is not None:
        with contextlib.suppress(OSError):  # as in the parent it may have been removed
            os.chdir(config["cwd"])
    if config["announce"]:
        announce_threads(config["announce"])  # before the main script, which may import what heeds it
    if config["prepare"] is not None:
        import_main(config["prepare"])
    else:
        forget_exit_functions()


def announce_threads(wanted: dict[str, str]) -> None:
    """Tell numerical libraries that are still to be imported how many threads they may use."""
    if "numba" in sys.modules:
        wanted.pop("NUMBA_NUM_THREADS", None)  # numba, once loaded, takes a change of it for a mistake
    for name, value in wanted.items():  # not by ``update``, which touches a dozen pages more after a fork
        os.environ[name] = value


def limit_threads(threads: int, explicit: bool) -> None:
    """Hold numerical libraries that were forked along to so many threads."""
    blas.limit_loaded(threads, {} if explicit else os.environ, exactly=explicit)


class _Worker:
    """The loop of a worker."""

    def __init__(self, line: Line, fds: WorkerFds, config: dict[str, Any]) -> None:
        self._line = line
        self._number: int = config["number"]
        self._threads: tuple[int, bool] | None = config["threads"]
        self._tickets = fds.tickets
        self._ticket = 0
        self._calls: dict[int, Call] = {}
        self._sessions: dict[int, Session] = {}
        self._relay_log(config["levels"])
        memory = memoryview(mmap.mmap(fds.board, SHARED_BYTES))
        self._board = memory[:BOARD_BYTES].cast("q")
        os.close(fds.board)
        self._flusher = Flusher()
        self._runner = Runner(
            self._send,
            worker_name(os.getpid()),
            self._board,
            self._flusher,
            config["number"],
            max_memory=config["max_memory"],
            ledger=Ledger(memory[BOARD_BYTES:]),
        )
        _signal.signal(_signal.SIGINT, self._on_sigint)
        # A process that a task forks must not hold this worker's line open after its death.
        os.register_at_fork(after_in_child=self._let_go)

    def serve(self, frames: Any) -> None:
        """Answer frames until STOP or end-of-file."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone
            self._serve(frames)
        self._flusher.stop()

    def _serve(self, frames: Any) -> None:
        self._line.send(Kind.READY, [])
        if self._threads is not None:
            limit_threads(*self._threads)  # it may take a millisecond, which READY need not wait for
        for kind, parts in frames:
            if kind is Kind.CHUNK:
                chunk, ticket = decode_chunk(parts, self._calls)
                if ticket and not self._redeem(ticket):
                    continue  # another worker has it
                self._runner.run(chunk, functools.partial(self._is_revoked, chunk.id))
                del chunk, parts  # an idle worker keeps no arguments alive
                if self._runner.spent:
                    self._runner.retire()
                    self._line.send(Kind.RETIRED, [])
                    break
            elif kind is Kind.CALL:
                call = decode_call(parts, self._sessions)
                self._calls[call.id] = call
                self._runner.open(call)
            elif kind is Kind.CLOSE:
                number = int.from_bytes(parts[0], "little")
                self._calls.pop(number, None)
                self._runner.close(number)
            elif kind is Kind.SESSION:
                session = decode_session(parts)
                self._sessions[session.id] = session
            elif kind is Kind.END:
                number, leave = marshal.loads(parts[0])
                del self._sessions[number]
                self._runner.end(number, leave)
            elif kind is Kind.FREED:
                self._line.freed(marshal.loads(parts[0]))
            elif kind is Kind.LOG:
                self._relay_log(marshal.loads(parts[0]))
            elif kind is Kind.STOP:
                break

    def _is_revoked(self, chunk: int) -> bool:
        return self._board[REVOKED] == chunk

    def _redeem(self, ticket: int) -> bool:
        """Take the ticket of a chunk that waited in line; False if the engine took it back.

        The pipe is read by both sides, and the kernel gives each ticket to one of them: whoever has the
        ticket has the chunk.  Tickets rise, so one higher than expected means that ours is gone.
        """
        while self._ticket < ticket:
            try:
                self._ticket = TICKET.unpack(os.read(self._tickets, TICKET.size))[0]
            except BlockingIOError:
                return False
        return self._ticket == ticket

    def _send(self, event: WorkerEvent) -> None:
        self._line.send(*encode_event(event))

    def _relay_log(self, levels: Any) -> None:
        """From now on records of the log go to the parent, those that it wants."""
        if levels is not None or "logging" in sys.modules:
            import pools_core.logs

            pools_core.logs.relay(levels, self._number, self._line.log)

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C is for the parent; somebody who signals this very worker means its task."""
        if self._board[CHUNK] and not self._line.is_writing():
            raise KeyboardInterrupt

    def _let_go(self) -> None:
        self._line.close()
        with contextlib.suppress(OSError):
            os.close(self._tickets)


def _hold_to(lifeline: int) -> int:
    """See to it that this process, and its group, ends when the parent is gone, whatever it is doing.

    On Linux the kernel does it: it sends SIGKILL to the group when the pipe loses its last writer
    (fcntl(2), F_SETSIG and F_SETOWN).  These belong to the open file, which all workers would share, so
    the pipe is opened anew.  Elsewhere a thread waits for the end of the pipe.

    Returns:
        The pipe's descriptor from now on.
    """
    try:
        own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(own, fcntl.F_SETSIG, _signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        if select.select([own], [], [], 0)[0]:
            os._exit(1)  # it was gone before we began to listen
    except (OSError, AttributeError):
        threading.Thread(target=_watch, args=(lifeline,), name="pools-lifeline", daemon=True).start()
        return lifeline
    os.close(lifeline)
    return own


def _watch(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.killpg(0, _signal.SIGKILL)


def spawned(*numbers: int) -> NoReturn:
    """Entry of a worker that was started as a fresh interpreter; the numbers are its descriptors."""
    run_worker(WorkerFds(*numbers))
