"""A process that does nothing but fork workers, so that they never come from one with threads.

Two kinds.  ``of_this``: a copy of the calling process, made while that is safe; its children have what
the caller had.  ``shared``: a fresh interpreter with the main script and the worker's modules imported;
one for all pools of this process, which it lives as long as.

The control socket keeps message borders (SOCK_SEQPACKET), so a message is whole or not there:

    start   + descriptors  ─▶  pid
    reap    + pid          ─▶  exit code; the process has ended, or is about to
    forget  + pid              the same without an answer
    end-of-file                the server ends; its children live on
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import struct
import sys
import threading
from typing import ClassVar, Final, NoReturn

from pools_core.shared import inheritable
from pools_multicore.child import fork, import_main
from pools_multicore.inherit import close_in_forked_children, fresh_python, no_interrupt, preparation
from pools_multicore.worker import N_FDS, WorkerFds, run_worker

__all__ = ["ForkServer", "serve_fresh"]

_MESSAGE: Final = struct.Struct("<cq")
_UNKNOWN: Final = -(1 << 40)
ANSWER: Final = 60.0
"""Seconds for an answer: a fresh interpreter that imports a heavy main script takes some of them."""


class ForkServer:
    """The near side of a server."""

    _shared: ClassVar[ForkServer | None] = None
    _shared_lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, control: socket.socket, pid: int, inherits: frozenset[int] = frozenset()) -> None:
        self.inherits = inherits
        """Ids of the shared objects that its workers are born with."""
        self._control = control
        self._control.settimeout(ANSWER)
        self._pid = pid
        self._lock = threading.RLock()
        self.alive = True
        close_in_forked_children(self)

    @classmethod
    def of_this(cls) -> ForkServer:
        """Fork a server off this process.

        Raises:
            OSError: no process can be had.
        """
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inherits = inheritable()
        with far, no_interrupt():
            try:
                pid = fork()
            except OSError:
                near.close()
                raise
            if pid == 0:
                near.close()
                _serve(far)
        return cls(near, pid, inherits)

    @classmethod
    def shared(cls) -> ForkServer:
        """Return the fresh server of this process, started if need be."""
        with cls._shared_lock:
            if cls._shared is None or not cls._shared.alive:
                cls._shared = cls._start_fresh()
            return cls._shared

    @classmethod
    def stop_shared(cls) -> None:
        """End the fresh server, if there is one."""
        with cls._shared_lock:
            if cls._shared is not None:
                cls._shared.close()
                cls._shared = None

    @classmethod
    def _start_fresh(cls) -> ForkServer:
        ready = preparation()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far, far_control:
            numbers = (far.fileno(), far_control.fileno())
            pid = fresh_python("pools_multicore.forkserver", "serve_fresh", numbers)
            far.close()
            near.sendall(ready)
        return cls(control, pid)

    def start(self, fds: WorkerFds) -> int:
        """Fork a worker and return its pid.

        Raises:
            OSError: the server is gone.
        """
        with self._lock:
            try:
                socket.send_fds(self._control, [_MESSAGE.pack(b"s", 0)], list(fds))
                return self._answer()
            except BaseException:  # also Ctrl-C: the answer to this must not be taken for the next one's
                self.close()
                raise

    def reap(self, pid: int) -> int | None:
        """Wait for one of its children to end, and return the exit code; None if the server is gone."""
        with self._lock:
            try:
                self._control.send(_MESSAGE.pack(b"r", pid))
                code = self._answer()
            except OSError:
                self.close()
                return None
            except BaseException:  # as above
                self.close()
                raise
        return None if code == _UNKNOWN else code

    def forget(self, pid: int) -> None:
        """Have a child that was killed cleared away.  Takes no lock: it may be called from a finalizer."""
        with contextlib.suppress(OSError):
            self._control.send(_MESSAGE.pack(b"f", pid), socket.MSG_DONTWAIT)

    def end(self) -> None:
        """Have the server end; ``close`` waits for it."""
        if self.alive:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the server."""
        if self.alive:
            self.alive = False
            self._control.close()
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(self._pid, 0)

    def close_in_child(self) -> None:
        """In a process forked from this one, let go of the server."""
        self.alive = False
        self._control.close()
        if ForkServer._shared is self:
            ForkServer._shared = None

    def _answer(self) -> int:
        answer = self._control.recv(_MESSAGE.size)
        if len(answer) < _MESSAGE.size:
            raise ConnectionError("the fork server ended")
        _, number = _MESSAGE.unpack(answer)
        return int(number)


# It would end by itself, but Python would warn of a socket that nobody closed.
atexit.register(ForkServer.stop_shared)


def serve_fresh(stream_fd: int, control: int) -> NoReturn:
    """Entry of a fresh server: get ready, then serve.  The numbers are its descriptors."""
    with socket.socket(fileno=stream_fd) as stream:
        data = b"".join(iter(lambda: stream.recv(65536), b""))
    import_main(data)
    import pools_core.payload  # noqa: F401  what workers need, once for all of them

    _serve(socket.socket(fileno=control))


def _serve(control: socket.socket) -> NoReturn:
    """Fork workers until the near side is gone."""
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers set their own
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while True:
            message, fds, _, _ = socket.recv_fds(control, _MESSAGE.size, N_FDS)
            if not message:
                break
            what, pid = _MESSAGE.unpack(message)
            if what == b"s":
                pid = fork()
                if pid == 0:
                    control.close()
                    run_worker(WorkerFds(*fds))
                for fd in fds:
                    os.close(fd)
                control.send(_MESSAGE.pack(b"s", pid))
            else:
                status = _wait(pid)
                if what == b"r":
                    control.send(_MESSAGE.pack(b"r", status))
        code = 0
    except (ConnectionError, KeyboardInterrupt):
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return _UNKNOWN
