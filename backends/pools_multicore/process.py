"""Starting worker processes, ending them, and learning how they ended.

    fork         a copy of this process; once this has other threads, a copy of the *template*, which
                 was forked off along with the first workers and does nothing else
    forkserver   a copy of a fresh interpreter that has what is needed imported, and no threads
    spawn        a fresh interpreter each

However it was started, a worker has a process group of its own and ends when its parent does.
"""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import sys
import threading
from time import monotonic
from typing import Any, Final

from pools_core.shared import inheritable
from pools_multicore.child import fork
from pools_multicore.forkserver import ForkServer
from pools_multicore.inherit import fresh_python, preparation
from pools_multicore.worker import WorkerFds, run_worker

__all__ = ["Process", "Starter", "check_not_importing_main", "may_have_children", "stop_forkserver"]


TEMPLATE_AFTER: Final = 0.1
"""Seconds of a pool's life before the template is forked off, unless helper threads start sooner."""


class Process(abc.ABC):
    """A worker process, as its parent sees it."""

    is_child = False
    """Whether this process itself waits for it, and not a fork server."""

    def __init__(self, pid: int, inherits: frozenset[int] = frozenset()) -> None:
        self.pid = pid
        self.inherits = inherits
        """Ids of the shared objects that it was born with."""
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # as the child does; whoever comes first, it is done before a signal

    @abc.abstractmethod
    def reap(self) -> int | None:
        """Return the exit code, once the process was killed or closed its line; None if it cannot be learnt.

        Blocks until it has ended, which is at once.
        """

    @abc.abstractmethod
    def forget(self) -> None:
        """Let a process that was killed be cleared away, without waiting for it if possible."""

    def kill(self, tree: bool) -> None:
        """End the process group at once.

        Args:
            tree: also descendants that left the group; takes some milliseconds to find them.
        """
        others = _descendants(self.pid) if tree else []
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)  # where it had no time yet to make its group
        for other in others:
            with contextlib.suppress(Exception):  # psutil's own errors: it is gone already
                other.kill()


class _Child(Process):
    """A child of this process."""

    is_child = True

    def reap(self) -> int | None:
        """Return the exit code; blocks until the process has ended."""
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return None  # somebody else waited for it: a SIGCHLD handler, or waitpid(-1)

    def forget(self) -> None:
        """Wait for a process that was killed."""
        self.reap()


class _Served(Process):
    """A child of a fork server."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        super().__init__(pid, server.inherits)
        self._server = server

    def reap(self) -> int | None:
        """Return the exit code, which the server knows; blocks until the process has ended."""
        return self._server.reap(self.pid)

    def forget(self) -> None:
        """Have the server clear it away."""
        self._server.forget(self.pid)


class Starter:
    """Starts the workers of one pool.

    Args:
        method: ``"fork"``, ``"forkserver"``, ``"spawn"``, or None to choose when the first one starts.
    """

    def __init__(self, method: str | None) -> None:
        self._method = method
        self._template: ForkServer | None = None
        self._born = monotonic()

    @property
    def method(self) -> str:
        """The start method; chosen now if it was not before.

        fork where that is safe, on Linux and with no other thread running; else forkserver.
        """
        if self._method is None:
            self._method = "fork" if sys.platform == "linux" and self._alone() else "forkserver"
        return self._method

    def config(self) -> dict[str, Any]:
        """Return what a worker has to be told that does not share this process's past."""
        config: dict[str, Any] = dict.fromkeys(("environ", "path", "cwd", "prepare"))
        if self.method == "forkserver":
            config.update(environ=dict(os.environ), path=list(sys.path), cwd=_cwd())
        elif self.method == "spawn":
            config["prepare"] = preparation()
        return config

    def prepare(self) -> None:
        """Fork the template, while there are no threads yet that a fork would cut off from their locks."""
        if self.method == "fork" and (self._template is None or not self._template.alive):
            self._template = ForkServer.of_this()

    def template_due(self) -> float | None:
        """Return the seconds until the template should be forked; None where none is wanting.

        Not at once: the workers have the processors then, and a pool that ends soon never needs it.
        """
        if self.method != "fork" or (self._template is not None and self._template.alive):
            return None
        return self._born + TEMPLATE_AFTER - monotonic()

    def start(self, fds: WorkerFds) -> Process:
        """Start a worker; the caller holds Ctrl-C back, see ``no_interrupt``.

        Args:
            fds: its descriptors; the caller closes them afterwards.

        Raises:
            OSError: no process can be had, or the server that should fork it died.
        """
        if self.method == "spawn":
            return _Child(_spawn(fds))
        if self.method == "forkserver":
            server = ForkServer.shared()
            return _Served(server.start(fds), server)
        if self._template is None or self._alone():
            inherits = inheritable()
            return _Child(_fork(fds), inherits)
        return _Served(self._template.start(fds), self._template)

    def inherits(self, shared: int) -> bool:
        """Whether a worker that is started now will have a shared object of this process."""
        if self.method != "fork":
            return False
        return self._template is None or self._alone() or shared in self._template.inherits

    def ready(self) -> None:
        """Called before the descriptors of a worker are made: the template must not inherit them."""
        if self.method == "fork" and not self._alone():
            self.prepare()

    @staticmethod
    def _alone() -> bool:
        return threading.active_count() == 1

    def end(self) -> None:
        """Have the template end, without waiting for it; it has no workers of its own left."""
        if self._template is not None:
            self._template.end()

    def close(self) -> None:
        """End the template; its children live on."""
        if self._template is not None:
            self._template.close()
            self._template = None


def stop_forkserver() -> None:
    """End the fork server that all pools of this process share, if it runs; the next one starts another."""
    ForkServer.stop_shared()


def may_have_children() -> bool:
    """Whether this process may start processes: not a worker of a pool with ``daemon=True``."""
    process = sys.modules.get("multiprocessing.process")
    return process is None or not process.current_process().daemon


def check_not_importing_main() -> None:
    """Raise RuntimeError in a worker that is just importing the main script and came to this line of it."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a worker that imports the main script came to a line of it that starts workers of its own: "
            'put what the script runs under `if __name__ == "__main__":`'
        )


def _fork(fds: WorkerFds) -> int:
    pid = fork()
    if pid == 0:
        run_worker(fds)
    return pid


def _spawn(fds: WorkerFds) -> int:
    return fresh_python("pools_multicore.worker", "spawned", fds)


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _descendants(pid: int) -> list[Any]:
    """Return a process's descendants, stopping it first so that none are added meanwhile."""
    import psutil

    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGSTOP)
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
