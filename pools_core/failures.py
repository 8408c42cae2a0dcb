"""A task's failure: into a form that can travel, and back into the exception that the caller sees.

Both ends of one rule (promise 3 of the contract): the exception arrives as itself, with the worker's
traceback as its cause and a note that says which task it was; where it cannot be pickled or
unpickled, a ``RemoteError`` stands for it.
"""

from __future__ import annotations

import _pickle as pickle  # as in ``payload``
import os
from reprlib import Repr

from pools_core.calls import Convention, FailedTask
from pools_core.errors import RemoteError, RemoteTraceback, TaskTimeoutError, WorkerDiedError
from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final

    from pools_core.protocol import TimedOut, WorkerDied

__all__ = [
    "describe",
    "lost",
    "lost_exit",
    "lost_init",
    "rebuild",
    "rebuild_exit",
    "shown",
    "travelling",
    "type_name",
]

ARGUMENTS_SHOWN: Final = 200
"""Characters of an item's repr that an error carries: enough to know it, too few to fill a log."""

_RAISED: Final = "raised by "
_NOTE: Final = f"{_RAISED}task "
_HERE: Final = os.path.dirname(__file__) + os.sep

_repr: Final = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = ARGUMENTS_SHOWN


def describe(
    error: BaseException, offset: int, arguments: str, worker: str, same_process: bool
) -> FailedTask:
    """Put a task's exception into a form that can travel."""
    return FailedTask(
        offset=offset,
        # Exactly str: what a user's __str__ or __repr__ returns may be a subclass, which does not travel.
        type_name=str.__str__(type_name(type(error))),
        text=str.__str__(_text(error)),
        traceback=str.__str__(_format(error)),
        arguments=str.__str__(arguments),
        worker=worker,
        error=error if same_process else _pickled(error),
    )


def travelling(failed: FailedTask) -> FailedTask:
    """Return a failure of this process in the form in which it can leave it."""
    if isinstance(failed.error, BaseException):
        return failed._replace(error=_pickled(failed.error))
    return failed


def type_name(kind: type) -> str:
    """Return a class's name as a person would write it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _pickled(error: BaseException) -> bytes | None:
    """Pickle an exception without its traceback; None if it cannot be."""
    try:
        return bytes(pickle.dumps(error, 5))
    except BaseException:  # whatever its __reduce__ raises: the caller gets the text of it instead
        pass
    try:
        import cloudpickle

        return bytes(cloudpickle.dumps(error, 5))
    except BaseException:  # likewise
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # a __str__ that raises must not hide the failure that it describes
        return f"<str() of it raised {type(broken).__name__}>"


def _format(error: BaseException) -> str:
    """Format the traceback, beginning with the user's own frames."""
    import traceback  # only once something fails

    try:
        return "".join(traceback.format_exception(type(error), error, _without_ours(error.__traceback__)))
    except BaseException as broken:  # as above
        return f"<its traceback could not be formatted: {type(broken).__name__}>"


def _without_ours(tb: TracebackType | None) -> TracebackType | None:
    """Drop the frames of the pool's own code from the top of a traceback."""
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_HERE) and tb.tb_next is not None:
        tb = tb.tb_next
    return tb


def shown(item: Any, convention: Convention) -> str:
    """Return a short repr of a task's arguments; never raises."""
    try:
        if convention is Convention.APPLY:
            args, kwds = item
            parts = [_repr.repr(arg) for arg in args]
            parts += [f"{key}={_repr.repr(value)}" for key, value in kwds.items()]
            text = f"({', '.join(parts)})"
        else:
            text = _repr.repr(item)
    except BaseException as broken:  # a repr is the user's code, too
        text = f"<repr raised {type(broken).__name__}>"
    return text if len(text) <= ARGUMENTS_SHOWN else text[: ARGUMENTS_SHOWN - 1] + "…"


def rebuild(failed: FailedTask, index: int) -> BaseException:
    """Return the exception that a task raised, as the caller is to see it.

    Args:
        failed: what came from the worker.
        index: the task's position in its call's input.
    """
    return _carried(failed, f"{_NOTE}{index} with {failed.arguments} in {failed.worker}")


def _carried(failed: FailedTask, note: str) -> BaseException:
    error = failed.error
    if isinstance(error, bytes):
        try:
            error = pickle.loads(error)
        except KeyboardInterrupt:
            raise
        except BaseException:  # its __init__ or __setstate__ is the user's; its text is still good
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(failed.type_name, failed.text, failed.traceback)
    cause = RemoteTraceback(failed.traceback)
    if not isinstance(error.__cause__, RemoteTraceback):
        cause.__cause__ = error.__cause__  # in one process the task's own chain is still there
    error.__cause__ = cause
    return _note(error, note)


def lost(
    cause: WorkerDied | TimedOut, index: int, timeout: float | None, item: Any, convention: Convention
) -> BaseException:
    """Return the error of a task whose worker did not survive it."""
    from pools_core.protocol import TimedOut  # the caller's side only: no worker comes here

    error: BaseException
    if isinstance(cause, TimedOut):
        error = TaskTimeoutError(index, timeout or 0.0, cause.worker)
    else:
        error = WorkerDiedError(cause.pid, cause.host, cause.exitcode, index, cause.memory)
    return _note(error, f"{_NOTE}{index} with {shown(item, convention)} in {cause.worker}")


def rebuild_setup(failed: FailedTask, what: str) -> BaseException:
    """Return the exception that ``worker_init`` or ``worker_exit`` raised."""
    return _carried(failed, f"raised by {what} in {failed.worker}")


def rebuild_exit(failed: FailedTask) -> BaseException:
    """Return the exception that ``worker_exit`` raised."""
    return rebuild_setup(failed, "worker_exit")


def lost_init(cause: WorkerDied | TimedOut, timeout: float | None) -> BaseException:
    """Return the error of a ``worker_init`` that its worker did not survive."""
    return _lost_setup(cause, "worker_init", timeout)


def lost_exit(cause: WorkerDied | TimedOut, timeout: float | None) -> BaseException:
    """Return the error of a ``worker_exit`` that its worker did not survive."""
    return _lost_setup(cause, "worker_exit", timeout)


def _lost_setup(cause: WorkerDied | TimedOut, what: str, timeout: float | None) -> BaseException:
    from pools_core.protocol import TimedOut  # as above

    if isinstance(cause, TimedOut):
        return TaskTimeoutError(None, timeout or 0.0, cause.worker, what)
    return WorkerDiedError(cause.pid, cause.host, cause.exitcode, None, cause.memory, what)


def _note(error: BaseException, note: str) -> BaseException:
    """Say in a note which task it was; of several, for one object raised again, only the last stays."""
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        notes[:] = [note for note in notes if not str(note).startswith(_RAISED)]
    error.add_note(note)
    return error
