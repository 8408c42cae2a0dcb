"""What ``multiprocessing`` believes a worker to be.

Imported only where that is loaded anyway: by a parent before it forks, and by ``child`` once it is needed.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing.process
import os
from collections.abc import Callable
from multiprocessing import spawn, util
from typing import Any

__all__ = ["WorkerProcess", "import_main", "place_of_next", "prepare"]


def place_of_next() -> tuple[int, str, tuple[int, ...]]:
    """Return what a new worker is told of its place: pid and name of this process, and its own identity.

    That is the identity of its parent, and a number for each child process of that, whoever made it.
    Programs take it from ``current_process()._identity`` to share out devices among the workers of any pool.
    """
    inside: Any = multiprocessing.process
    me = inside.current_process()
    return os.getpid(), me.name, (*me._identity, next(inside._process_counter))  # noqa: SLF001


class WorkerProcess(multiprocessing.process.BaseProcess):
    """The worker as a process of ``multiprocessing``.

    Its ``_bootstrap`` is what every Python child process goes through: it closes stdin, runs what
    libraries registered for after a fork and for the exit, and flushes the standard streams.

    Args:
        config: the worker's: its ``name``, whether it is a ``daemon``, and its ``place`` (``place_of_next``).
        serve: what it does.
        sentinel: a descriptor that says when the parent has ended.
    """

    _start_method = None

    def __init__(self, config: dict[str, Any], serve: Callable[[], None], sentinel: int) -> None:
        self._serve = serve
        self._sentinel = sentinel
        super().__init__(name=config["name"])
        # It is made in the child, which may be a fork of somebody else than its parent.
        self._parent_pid, self._parent_name, self._identity = config["place"]
        self._config["daemon"] = config["daemon"]  # type: ignore[attr-defined]  # as BaseProcess.daemon, but after the start

    def run(self) -> None:
        """Serve until told to stop."""
        self._serve()

    def bootstrap(self) -> int:
        """Run, and return the exit code."""
        atexit.register(util._exit_function)  # type: ignore[attr-defined]  # noqa: SLF001  from 3.13 on, _bootstrap leaves it to atexit
        return int(self._bootstrap(parent_sentinel=self._sentinel))  # type: ignore[attr-defined]  # see the class

    def introduce(self) -> None:
        """Be known as the current process, which runs already."""
        inside: Any = multiprocessing.process
        inside._current_process = self  # noqa: SLF001  as _bootstrap does, and what follows
        inside._process_counter = itertools.count(1)  # noqa: SLF001
        inside._parent_process = inside._ParentProcess(self._parent_name, self._parent_pid, self._sentinel)  # noqa: SLF001


def prepare(data: dict[str, Any], importing_main: bool) -> None:
    """Take over what concerns ``multiprocessing``.

    Args:
        data: of that which its ``spawn`` prepares a child process with.
        importing_main: whether the main script is just being imported; a pool that it starts is refused then.
            So says this process as it is now; the worker will be another one to ``multiprocessing``.
    """
    spawn.prepare(data)
    if importing_main:
        multiprocessing.process.current_process()._inheriting = True  # type: ignore[attr-defined]  # noqa: SLF001


def import_main(path: str) -> None:
    """Import a main module that is no plain script."""
    spawn.prepare({"init_main_from_path": path})
