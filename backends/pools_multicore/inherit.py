"""What child processes get from this one, and what they must not.

They must not keep a parent's end of another worker's line: that worker would not see its parent die.
They do get the lifeline, by which each notices that the parent is gone.
"""

from __future__ import annotations

# As it is underneath, without the enumerations of ``signal``: after a fork each page that is written costs.
import _signal  # type: ignore[import-not-found]
import contextlib
import os
import pickle
import subprocess
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path
from typing import Any, Protocol

from pools_core.payload import main_is_interactive
from pools_multicore import standing as _standing  # noqa: F401  here, so that no forked worker has to

__all__ = ["close_in_forked_children", "fresh_python", "lifeline", "no_interrupt", "preparation", "starting"]


class ParentsOwn(Protocol):
    """Something that holds descriptors of the parent."""

    def close_in_child(self) -> None:
        """Close them."""


_parents_own: dict[int, weakref.ref[Any]] = {}
"""By identity.  A ``WeakSet`` does the same by more code, which each forked worker would touch."""


def close_in_forked_children(owner: ParentsOwn) -> None:
    """Have ``owner.close_in_child()`` called in every process that is forked from this one.

    Also in those that the user forks, with ``os.fork`` or ``multiprocessing``.  The owner is held weakly.
    """
    key, forget = id(owner), _parents_own.pop
    _parents_own[key] = weakref.ref(owner, lambda _: forget(key, None))


class _Lifeline:
    """A pipe to which nothing is ever written; workers see its end when this process is gone."""

    def __init__(self) -> None:
        self.read, self._write = os.pipe()
        close_in_forked_children(self)

    def close_in_child(self) -> None:
        """Let go of both ends; a worker has a descriptor of its own."""
        global _lifeline  # noqa: PLW0603  one for the process
        _lifeline = None
        os.close(self._write)
        os.close(self.read)


_lifeline: _Lifeline | None = None
_starting = threading.RLock()


def starting() -> threading.RLock:
    """Return the lock to hold while a worker's descriptors exist here, so that no other inherits them."""
    return _starting


def lifeline() -> int:
    """Return the reading end of this process's lifeline, which stays open as long as the process lives."""
    global _lifeline  # noqa: PLW0603  one for the process
    if _lifeline is None:
        _lifeline = _Lifeline()
    return _lifeline.read


def fresh_python(module: str, function: str, fds: tuple[int, ...]) -> int:
    """Start a fresh interpreter that calls ``module.function(*fds)``, and return its pid.

    Args:
        module: one of ours.
        function: its entry.
        fds: descriptors that it inherits, under the same numbers.
    """
    # Where our packages lie, in case that is known to this process only (a changed sys.path).
    import pools_core

    ours = [str(Path(file).parent.parent) for file in (pools_core.__file__, __file__) if file]
    # Without collections while it loads our modules, which are kept for good; before the main script they are
    # on again.
    code = (
        f"import gc, sys; gc.disable(); sys.path.extend(p for p in {ours!r} if p not in sys.path); "
        f"from {module} import {function}; gc.freeze(); gc.enable(); {function}{tuple(fds)}"
    )
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001  as multiprocessing.util does
    process = subprocess.Popen([os.fsdecode(spawn.get_executable()), *flags, "-c", code], pass_fds=fds)  # noqa: S603  our own interpreter
    process.returncode = 0  # whoever started it waits for it by pid, and Popen shall not
    return process.pid


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back for the moment of a fork.

    What libraries have registered to run around a fork is Python code, too, and the interpreter can only
    print and drop an exception that is raised in it.
    """
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    try:
        yield
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def preparation() -> bytes:
    """Return what a fresh interpreter needs to import the main script as this one did, pickled.

    Raises:
        RuntimeError: this process is itself just importing its main script; see the text.
    """
    data = spawn.get_preparation_data("pools")
    # multiprocessing guards its key against being pickled unawares; here it goes to our own child, over
    # a socket pair, as multiprocessing sends it, too.
    data["authkey"] = bytes(data["authkey"])
    if main_is_interactive():
        data.pop("init_main_from_path", None)  # of standard input there is nothing to read any more
    return pickle.dumps(data)


def _after_fork() -> None:
    global _starting  # noqa: PLW0603  one for the process
    _starting = threading.RLock()  # the parent's was held, by the very thread that forked
    owners = list(_parents_own.values())
    _parents_own.clear()
    for reference in owners:
        owner = reference()
        if owner is not None:
            with contextlib.suppress(OSError):
                owner.close_in_child()


os.register_at_fork(after_in_child=_after_fork)
