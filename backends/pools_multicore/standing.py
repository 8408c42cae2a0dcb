"""What ``multiprocessing`` believes a worker to be.

Imported only where that is loaded anyway: by a parent before it forks, and by ``child`` once it is needed.
"""

from __future__ import annotations

import atexit
import multiprocessing.process
from collections.abc import Callable
from multiprocessing import spawn, util
from typing import Any

__all__ = ["WorkerProcess", "import_main", "prepare"]


class WorkerProcess(multiprocessing.process.BaseProcess):
    """The worker as a process of ``multiprocessing``.

    Its ``_bootstrap`` is what every Python child process goes through: it closes stdin, runs what
    libraries registered for after a fork and for the exit, and flushes the standard streams.

    Args:
        config: the worker's: its ``name``, and whether it is a ``daemon``.
        serve: what it does.
    """

    _start_method = None

    def __init__(self, config: dict[str, Any], serve: Callable[[], None]) -> None:
        # Made in the child, of whatever the parent was.
        self._serve = serve
        super().__init__(name=config["name"])
        self._config["daemon"] = config["daemon"]  # type: ignore[attr-defined]  # as BaseProcess.daemon, but after the start

    def run(self) -> None:
        """Serve until told to stop."""
        self._serve()

    def bootstrap(self) -> int:
        """Run, and return the exit code."""
        atexit.register(util._exit_function)  # type: ignore[attr-defined]  # noqa: SLF001  from 3.13 on, _bootstrap leaves it to atexit
        return int(self._bootstrap())  # type: ignore[attr-defined]  # see the class

    def introduce(self) -> None:
        """Be known as the current process, which runs already."""
        inside: Any = multiprocessing.process
        inside._current_process = self  # noqa: SLF001  as _bootstrap does
        inside._parent_process = inside._ParentProcess(self._parent_name, self._parent_pid, None)  # type: ignore[attr-defined]  # noqa: SLF001


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
