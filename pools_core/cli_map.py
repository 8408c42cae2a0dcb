"""The job of ``pools map``: a pool, its results on stdout, and all else on stderr.

    stdout   results, one per line, each as soon as it is there
    stderr   the progress bar, failures, and at the end the insights

It knows nothing of the command's arguments: ``cli`` reads those, and turns the errors that are raised
here into one line and an exit status.
"""

from __future__ import annotations

import json
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from pools_core.errors import PoolsError, RemoteTraceback, UnsupportedOptionError
from pools_core.failures import type_name
from pools_core.functions import FunctionNotFoundError, find_function
from pools_core.items import BadInputError
from pools_core.registry import MakePool
from pools_core.results import Failure

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = [
    "TASK_FAILED",
    "Job",
    "OutputClosedError",
    "UnprintableError",
    "find_option",
    "run_job",
    "write_line",
]

TASK_FAILED: Final = 1
"""Exit status when a task, or a worker's init or exit function, failed."""


class OutputClosedError(Exception):
    """Whoever read standard output has stopped."""


class UnprintableError(Exception):
    """A result has no form in the output that was asked for."""


OURS: Final = (
    BadInputError,
    OutputClosedError,
    UnprintableError,
    UnsupportedOptionError,
    KeyboardInterrupt,
    SystemExit,
)
"""What ends a job and is no task's failure."""


@dataclass(frozen=True, slots=True)
class Job:
    """What ``pools map`` was asked to do.

    Attributes:
        function: called with each item.
        items: the items, one by one; an iterator that knows its length (``__length_hint__``) tells the bar.
        as_json: results are printed as JSON rather than as text.
        unordered: results are printed as they come.
        progress: whether a bar is shown; None: if stderr is a terminal.
        insights: whether it is told at the end where the time went.
        call_options: for the call, by name.
    """

    function: Callable[[Any], Any]
    items: Iterator[Any]
    as_json: bool
    unordered: bool
    progress: bool | None
    insights: bool
    call_options: Mapping[str, Any]


def find_option(option: str, reference: str | None) -> Callable[..., Any] | None:
    """Return the function that an option names; None if it was not given.

    Raises:
        FunctionNotFoundError: there is none; it says for which option.
    """
    if reference is None:
        return None
    try:
        return find_function(reference)
    except FunctionNotFoundError as error:
        raise FunctionNotFoundError(f"{option}: {error}") from error


def run_job(job: Job, backend: str | None, config: str | None, n_jobs: int | None) -> int:
    """Make a pool, run the job in it, and return the exit status.

    Args:
        job: what is to be done.
        backend: name of the backend; None for the configured one.
        config: path of a config file; None for the user's own.
        n_jobs: how many workers; None for the backend's own choice.

    Raises:
        BadInputError: pool, options or items make no sense.
        UnprintableError, OutputClosedError: see there.
        KeyboardInterrupt: Ctrl-C.
    """
    pool = _make_pool(backend, config, n_jobs, job.insights)
    try:
        status = _run(job, pool)
    except KeyboardInterrupt:
        _tell_insights(job, pool)
        raise
    _tell_insights(job, pool)
    return status


def _make_pool(backend: str | None, config: str | None, n_jobs: int | None, insights: bool) -> Pool:
    # What was not asked for is not mentioned, so that a backend that knows nothing of it will do.
    options: dict[str, Any] = {"enable_insights": True} if insights else {}
    try:
        return MakePool(backend, config, n_jobs=n_jobs, **options)
    except (PoolsError, TypeError, ValueError) as error:
        raise BadInputError(str(error)) from error


def _run(job: Job, pool: Pool) -> int:
    """Run a job to its end, the pool's included; return the exit status."""
    shows_bar = _stderr_is_a_terminal() if job.progress is None else job.progress
    go_on = job.call_options.get("on_error") == "return"
    try:
        with pool:
            results = _start(job, pool, shows_bar)
            return _print_results(results, _writer(job, shows_bar), go_on)
    except BaseException as error:
        # A task may raise anything, SystemExit too; what is ours, and Ctrl-C, is told by our caller.
        if _is_the_tasks(error) or not isinstance(error, OURS):
            return _tell(error)
        raise


def _start(job: Job, pool: Pool, shows_bar: bool) -> Iterator[Any]:
    options = dict(job.call_options)
    chunksize = options.pop("chunksize", None)
    if shows_bar:
        options["progress_bar"] = True
        options["iterable_len"] = operator.length_hint(job.items) or None
    call = pool.imap_unordered if job.unordered else pool.imap
    try:
        return call(job.function, job.items, chunksize, **options)
    except (TypeError, ValueError) as error:
        raise BadInputError(str(error)) from error


def _print_results(results: Iterator[Any], writer: Writer, go_on: bool) -> int:
    """Print results as they come; return the exit status.

    Args:
        results: what the pool delivers.
        writer: prints them.
        go_on: whether a result that cannot be printed is reported like a failure, or ends the job.
    """
    status = 0
    for number, result in enumerate(results):
        failure = result if isinstance(result, Failure) else None
        if failure is None:
            try:
                writer.result(result, number)
            except UnprintableError as error:
                if not go_on:
                    raise
                failure = Failure(error, number)
        if failure is not None:
            writer.failure(failure)
            status = TASK_FAILED
    return status


# ── what stderr gets ──


def _tell_insights(job: Job, pool: Pool) -> None:
    if job.insights:
        _complain(str(pool.insights()))


def _is_the_tasks(error: BaseException) -> bool:
    """Whether a task raised it, rather than the pool."""
    return isinstance(error.__cause__, RemoteTraceback)


def _tell(error: BaseException) -> int:
    """Show a task's failure on stderr: its traceback in the worker, and which task it was."""
    shown = [f"pools: {_short(error)}"]
    if isinstance(error.__cause__, RemoteTraceback):
        shown = [error.__cause__.tb.rstrip("\n")]
    notes = getattr(error, "__notes__", ())
    shown += [f"pools: {note}" for note in notes]
    _complain("\n".join(shown))
    return TASK_FAILED


def _short(error: BaseException) -> str:
    text = str(error)
    return f"{type_name(type(error))}: {text}" if text else type_name(type(error))


def _complain(text: str) -> None:
    if sys.stderr is not None:  # as after 2>&-
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _stderr_is_a_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


# ── output ──


def _writer(job: Job, shows_bar: bool) -> Writer:
    kind = JsonWriter if job.as_json else TextWriter
    return kind(above_bars=shows_bar and _stderr_is_a_terminal())


class Writer(ABC):
    """Prints results, one per line, each at once.

    Args:
        above_bars: a bar may stand on the terminal, and lines have to go above it.
    """

    def __init__(self, above_bars: bool) -> None:
        self._on_the_bars_terminal = above_bars and sys.stdout.isatty()
        self._above_bars = above_bars

    @abstractmethod
    def result(self, value: Any, number: int) -> None:
        """Print what a task returned."""

    @abstractmethod
    def failure(self, failure: Failure) -> None:
        """Print a task's failure."""

    def _out(self, text: str) -> None:
        with _out_of_the_way(self._on_the_bars_terminal):
            write_line(text)

    def _err(self, text: str) -> None:
        with _out_of_the_way(self._above_bars):
            _complain(text)


class TextWriter(Writer):
    """Results as ``str`` shows them; failures on stderr, so that they cannot be taken for results."""

    def result(self, value: Any, number: int) -> None:
        """Print what a task returned."""
        self._out(str(value))

    def failure(self, failure: Failure) -> None:
        """Print a task's failure on stderr."""
        self._err(f"pools: task {failure.index}: {_short(failure.error)}")


class JsonWriter(Writer):
    """Results as JSON; a failure is an object among them."""

    def result(self, value: Any, number: int) -> None:
        """Print what a task returned."""
        try:
            text = json.dumps(value, default=_plain, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            what = f"result {number} is not JSON: {error}; return something else, or use --output text"
            raise UnprintableError(what) from error
        self._out(text)

    def failure(self, failure: Failure) -> None:
        """Print a task's failure among the results."""
        kind = type_name(type(failure.error))
        told = {"error": str(failure.error), "type": kind, "index": failure.index}
        self._out(json.dumps(told, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Return a numpy scalar or array as plain numbers; whatever else has no JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an object of type {type_name(type(value))}")


def _out_of_the_way(needed: bool) -> AbstractContextManager[None]:
    """Return a context in which the line of the terminal that a bar stands on is free."""
    return _without_bars() if needed else nullcontext()


@contextmanager
def _without_bars() -> Iterator[None]:
    """Take all bars off the terminal, and draw them anew afterwards, below what was written."""
    import tqdm.std

    # The lock that ``progress`` draws under; tqdm's own would also make one for processes.
    lock = cast("Any", tqdm.std).TqdmDefaultWriteLock.th_lock
    with lock, tqdm.std.tqdm.external_write_mode(nolock=True):
        yield


def write_line(text: str) -> None:
    """Print a line on stdout at once: whoever reads may be waiting for it.

    Raises:
        OutputClosedError: nobody reads any more.
    """
    try:
        try:
            sys.stdout.write(f"{text}\n")
        except UnicodeEncodeError:  # a file name that is not text, or a terminal that knows few letters
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error
