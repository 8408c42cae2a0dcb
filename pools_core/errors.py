"""Every error that a pool raises of its own accord, in one tree.

    PoolsError
    ├── BackendNotFoundError    (LookupError)       no backend has that name
    ├── BackendConflictError    (LookupError)       two distributions offer that name
    ├── BackendLoadError        (ImportError)       a backend is installed but does not load
    ├── BackendContractError    (TypeError)         a backend lacks what every backend exports
    ├── ConfigError             (ValueError)        a config file or mapping says something impossible
    ├── UnsupportedOptionError  (ValueError)        this backend cannot honour that option
    ├── PoolClosedError         (ValueError)        the pool takes no more work
    ├── SerializationError      (TypeError)         a function, argument or result cannot be pickled
    ├── TaskTimeoutError        (TimeoutError)      a task ran longer than its ``task_timeout``
    ├── PoolTimeoutError        (multiprocessing.TimeoutError, TimeoutError)   a wait ended first
    ├── WorkerDiedError         (RuntimeError)      a worker process ended under its task
    ├── RemoteError             (RuntimeError)      a task's exception that could not travel itself
    ├── TransportError          (ConnectionError)   the way to the workers is broken
    └── SecurityError           (PermissionError)   something unsigned, forged or too open

Each is also the builtin that says the same thing, so ``except ValueError`` goes on working for
those who know only Python.  Each survives pickling: all that its ``__init__`` needs is in ``args``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from pools_core.timeouts import PoolTimeoutError

__all__ = [
    "BackendConflictError",
    "BackendContractError",
    "BackendLoadError",
    "BackendNotFoundError",
    "ConfigError",
    "PoolClosedError",
    "PoolTimeoutError",
    "PoolsError",
    "RemoteError",
    "RemoteTraceback",
    "SecurityError",
    "SerializationError",
    "TaskTimeoutError",
    "TransportError",
    "UnsupportedOptionError",
    "WorkerDiedError",
]


class PoolsError(Exception):
    """Root of every error that a pool raises of its own accord."""


class BackendNotFoundError(PoolsError, LookupError):
    """No installed distribution offers a backend of that name."""


class BackendConflictError(PoolsError, LookupError):
    """Two distributions offer a backend of the same name."""


class BackendLoadError(PoolsError, ImportError):
    """A backend is installed, but importing it fails; the cause is chained."""


class BackendContractError(PoolsError, TypeError):
    """A backend package lacks something that every backend must export."""


class ConfigError(PoolsError, ValueError):
    """A config file, mapping or environment variable says something impossible."""


class UnsupportedOptionError(PoolsError, ValueError):
    """An option that this backend cannot honour.

    Args:
        option: the option's name, as the user typed it.
        backend: the backend that was asked.
        able: names of installed backends that can honour it; may be empty.
    """

    def __init__(self, option: str, backend: str, able: Sequence[str] = ()) -> None:
        super().__init__(option, backend, tuple(able))
        self.option = option
        self.backend = backend
        self.able = tuple(able)

    def __str__(self) -> str:
        mend = (
            f"leave it out, or choose a backend that can: {', '.join(self.able)}"
            if self.able
            else "leave it out; no installed backend can"
        )
        return f"the {self.backend} backend cannot honour {self.option!r}: {mend}"


class PoolClosedError(PoolsError, ValueError):
    """The pool was closed or terminated, or belongs to another process."""


class SerializationError(PoolsError, TypeError):
    """A function, an argument or a result cannot be pickled or unpickled.

    The original error is the ``__cause__`` where the failure happened in this process.
    """


class TaskTimeoutError(PoolsError, TimeoutError):
    """A task ran longer than ``task_timeout`` and was killed; or a worker's init or exit function.

    Args:
        index: position of the task in its call's input, from 0; None when it was no task.
        timeout: the limit, in seconds.
        worker: the worker that ran it, as text.
        what: ``"task"``, ``"worker_init"`` or ``"worker_exit"``.
    """

    def __init__(self, index: int | None, timeout: float, worker: str, what: str = "task") -> None:
        super().__init__(index, timeout, worker, what)
        self.index = index
        self.timeout = timeout
        self.worker = worker
        self.what = what

    def __str__(self) -> str:
        if self.what != "task":
            return (
                f"{self.what} was killed after its {self.what}_timeout of {self.timeout:g} s "
                f"in {self.worker}; raise the limit"
            )
        return (
            f"task {self.index} was killed after its task_timeout of {self.timeout:g} s "
            f"in {self.worker}; raise the limit or split the task"
        )


class WorkerDiedError(PoolsError, RuntimeError):
    """A worker process ended while it was running a task.

    Only facts are given, no guess at the reason: an exit code or a signal.

    Args:
        pid: the process that ended.
        host: the machine that it ran on.
        exitcode: its exit code; minus the signal number when a signal ended it; None when unknown.
        index: position of the lost task in its call's input, from 0; None when it held no task.
        memory: bytes of resident memory after its last task, where ``max_worker_memory`` is in force.
        what: ``"task"``, ``"worker_init"`` or ``"worker_exit"``: what it was running.
    """

    def __init__(
        self,
        pid: int,
        host: str,
        exitcode: int | None,
        index: int | None = None,
        memory: int | None = None,
        what: str = "task",
    ) -> None:
        super().__init__(pid, host, exitcode, index, memory, what)
        self.memory = memory
        self.what = what
        self.pid = pid
        self.host = host
        self.exitcode = exitcode
        self.index = index

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that ended the process, such as ``"SIGKILL"``; None if none did."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            import signal  # not sooner: a worker starts without it

            return signal.Signals(-self.exitcode).name
        except ValueError:
            return f"signal {-self.exitcode}"

    def __str__(self) -> str:
        if self.exitcode is None:
            how = "exit code unknown"
        elif self.signal_name is not None:
            how = f"killed by {self.signal_name}"
        else:
            how = f"exit code {self.exitcode}"
        where = f"worker process {self.pid} on {self.host}"
        if self.memory:
            how += f"; its memory was last seen at {self.memory / 2**20:,.0f} MiB"
        if self.what != "task":
            return f"{where} died while running {self.what}: {how}"
        if self.index is None:
            return f"{where} died before it could take a task ({how}); its stderr may say why"
        hint = (
            " (SIGKILL is also how a system out of memory ends a process)"
            if self.signal_name == "SIGKILL"
            else ""
        )
        return f"{where} died while running task {self.index}: {how}{hint}; other tasks are not affected"


class RemoteError(PoolsError, RuntimeError):
    """Stands for an exception of a task that could not itself be pickled or unpickled.

    Args:
        type_name: qualified name of the exception's class.
        text: what ``str()`` of it said.
        traceback: the traceback in the worker, as plain text.
    """

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class TransportError(PoolsError, ConnectionError):
    """The way to the workers broke, and it is unknown what became of the work."""


class SecurityError(PoolsError, PermissionError):
    """Something unsigned, forged, replayed or too open was refused."""


class RemoteTraceback(Exception):
    """The traceback in the worker; always the ``__cause__`` of a task's exception.

    Args:
        tb: the formatted traceback, plain text without colour codes.
    """

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f"\n\n{self.tb}"


def unpicklable(message: str, cause: BaseException) -> SerializationError:
    """Return a SerializationError that is also what the user's own code raised.

    ``multiprocessing.Pool`` lets an error raised by an object's ``__reduce__`` through as it is, and
    programs catch it by its type; with this both ``except`` clauses work.

    Args:
        message: the whole sentence for people.
        cause: the error that pickling met.
    """
    kind: type[SerializationError] = SerializationError
    own = type(cause)
    if isinstance(cause, Exception) and not isinstance(cause, TypeError | SerializationError):
        try:
            kind = type("SerializationError", (_AlsoUsers, own), {"__module__": __name__})
            error = kind.__new__(kind, message)
        except TypeError:  # two C layouts that cannot be one object: the plain error says enough
            kind = SerializationError
    if kind is SerializationError:
        error = SerializationError(message)
    error.args = (message,)
    error.__cause__ = cause
    return error


def __getattr__(name: str) -> Any:
    if name != "PoolTimeoutError":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pools_core import timeouts  # not sooner: it needs multiprocessing, and a worker starts without that

    globals()[name] = timeouts.PoolTimeoutError  # the next time it is there
    return timeouts.PoolTimeoutError


class _AlsoUsers(SerializationError):
    """A SerializationError that has a second parent; it travels as the plain one."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[SerializationError], tuple[Any, ...]]:
        return SerializationError, self.args
