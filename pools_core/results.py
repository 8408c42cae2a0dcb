"""What a caller holds while work is under way, and what stands for a failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pools_core.errors import PoolTimeoutError, RemoteError

if TYPE_CHECKING:
    from pools_core.flow import Flow
    from pools_core.map_flow import MapFlow

__all__ = ["AsyncResult", "Failure", "PartSource", "ResultIterator", "ToRaise"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Failure:
    """Stands among the results for a task that failed, with ``on_error="return"``.

    Attributes:
        error: the exception, with the traceback in the worker as its cause.
        index: position of the task in its call's input, from 0.
    """

    error: BaseException
    index: int


@dataclass(frozen=True, slots=True)
class ToRaise:
    """Stands in a part of an imap for a failure that is raised when its turn comes.

    Not a ``Failure``, which a task might return as its value.
    """

    error: BaseException


class AsyncResult(Generic[R]):
    """The result of ``apply_async``, ``map_async`` or ``starmap_async``, which may not be there yet.

    May be used from any thread; ``get`` may be called repeatedly.

    Args:
        flow: the call.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def get(self, timeout: float | None = None) -> R:
        """Return the result, waiting for it if need be.

        Args:
            timeout: seconds to wait at the most; None for no limit.

        Raises:
            PoolTimeoutError: it did not come in time; the task goes on, and ``get`` may be called again.
            concurrent.futures.CancelledError: it was cancelled.
            PoolClosedError: the pool was terminated first.
            BaseException: whatever the task raised.
        """
        self.wait(timeout)
        flow = self._flow
        if not flow.told:
            raise PoolTimeoutError(
                f"no result within {timeout:g} s; the task goes on, get() may be called again"
            )
        if flow.error is not None:
            try:
                raise flow.error
            finally:
                del flow, self  # this frame is part of the traceback that the error now holds
        value: R = flow.value
        return value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or ``timeout`` seconds have passed; returns None either way."""
        self._flow.pump.wait_for_end(self._flow, timeout)

    def ready(self) -> bool:
        """Return whether the result, or a failure, is there."""
        return self._flow.told

    def successful(self) -> bool:
        """Return whether there was no failure.

        Raises:
            ValueError: the result is not there yet.
        """
        if not self._flow.told:
            raise ValueError(f"{self!r} is not ready; call wait() first")
        return self._flow.error is None

    def cancel(self) -> bool:
        """Stop the work: what has not started never will, what is running is killed where that can be.

        Returns:
            Whether it was stopped; False when it had finished.  A ``get`` then raises
            ``concurrent.futures.CancelledError``.
        """
        error = CancelledError("cancelled by AsyncResult.cancel()")
        return self._flow.pump.abort(self._flow, error, kill=True)

    def __repr__(self) -> str:
        flow = self._flow
        state = "waiting" if not flow.told else "done" if flow.error is None else "failed"
        return f"<{type(self).__name__} {state}>"


class ResultIterator(itertools.chain[R]):
    """What ``imap`` and ``imap_unordered`` return: results one by one, as they come.

    A chain of parts, each a list of results as one message from a worker brought it, so that taking
    the next result costs no Python call.  A part with a failure in it raises when its turn comes, and
    the iterator goes on after it.
    """

    _source: PartSource

    @classmethod
    def over(cls, source: PartSource) -> ResultIterator[Any]:
        """Return an iterator over the parts of a source."""
        made = cls.from_iterable(source)
        assert isinstance(made, ResultIterator)  # from_iterable makes one of the class that it is asked on
        made._source = source  # noqa: SLF001  its own class
        return made

    def next(self, timeout: float | None = None) -> R:
        """Return the next result, waiting for it for at most ``timeout`` seconds.

        Raises:
            PoolTimeoutError: it did not come in time; the iterator goes on.
            StopIteration: there are no more.
        """
        self._source.timeout = timeout
        try:
            return next(self)
        finally:
            self._source.timeout = None

    def close(self) -> None:
        """Give up the rest: what has not started never will."""
        self._source.close()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)
        if source is not None:
            source.forget()


class PartSource:
    """Yields the parts of one imap, each an iterator over results in the order of delivery.

    Args:
        flow: the call.
        take: returns the next part and whether ``ToRaise`` objects are in it; None when there are no
            more.  Blocks; raises PoolTimeoutError after ``timeout`` seconds.
    """

    def __init__(
        self, flow: MapFlow, take: Callable[[MapFlow, float | None], tuple[list[Any], bool] | None]
    ) -> None:
        self.timeout: float | None = None
        self._flow = flow
        self._take = take

    def __iter__(self) -> PartSource:
        return self

    def __next__(self) -> Iterator[Any]:
        try:
            part = self._take(self._flow, self.timeout)
        except PoolTimeoutError as error:
            # Raised from within the part: a chain whose source raises is at its end.
            return map(_raise, [error])
        if part is None:
            raise StopIteration
        values, some_raise = part
        return map(_value_or_raise, values) if some_raise else iter(values)

    def forget(self) -> None:
        """As ``close``, but fit for a finalizer: it takes effect when the pool is next used."""
        if not self._flow.is_over():
            self._flow.pump.give_up(self._flow)

    def close(self) -> None:
        """Give up what has not been delivered."""
        self._flow.pump.abort(self._flow, CancelledError("the iterator was given up"), kill=False)


def _value_or_raise(value: Any) -> Any:
    if type(value) is ToRaise:
        _raise(value.error)
    return value


def _raise(error: BaseException) -> None:
    if isinstance(error, StopIteration):
        # Raised as itself it would end the loop over the results, silently (compare PEP 479).
        raise RemoteError("StopIteration", f"a task raised it: {error}", "") from error
    raise error
