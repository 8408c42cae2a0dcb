"""Chapter four: values that only look like messages, and values that cannot travel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pools_core.calls import Chunk, FailedTask, Outcomes, Packed, Refused
from pools_core.errors import SerializationError, WorkerDiedError
from pools_core.pool import Pool
from pools_core.results import Failure, ToRaise
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.tasks import Misbehaved

__all__ = ["ValuesContract"]


def odd_values() -> list[Any]:
    """Return values that some pool once took for a message of its own, or might."""
    return [
        "\0",
        b"\0",
        b"",
        None,
        ...,
        NotImplemented,
        (),
        [],
        StopIteration,
        True,
        -1,
        "STOP",
        "POISON_PILL",
        b"m",
        b"e",
        threading.Thread,
        Packed(b"m"),
        Outcomes(1, 0, 1, [None]),
        Refused(1),
        FailedTask(0, "E", "text", "tb", "args", "worker", None),
    ]


class ValuesContract(ContractBase):
    """The last sentence of promise 3, and promise 7."""

    def test_no_value_is_mistaken_for_a_message(self, pool: Pool) -> None:
        """MPIRE hung for ever on a task that returned a NUL: here a value is only ever a value."""
        for chunksize in (1, 3, None):
            values = odd_values()
            for results in (
                pool.map(tasks.identity, values, chunksize),
                list(pool.imap(tasks.identity, values, chunksize)),
                [pool.apply(tasks.identity, (value,)) for value in values],
            ):
                assert repr(results) == repr(values)
            unordered = pool.map_unordered(tasks.identity, values, chunksize)
            assert sorted(map(repr, unordered)) == sorted(map(repr, values))

    def test_exceptions_and_failures_are_values_when_they_are_returned(self, pool: Pool) -> None:
        """Returned is not raised."""
        values = [
            ValueError("text"),
            StopIteration(3),
            KeyboardInterrupt(),
            WorkerDiedError(1, "host", -9, 0),
            Failure(ValueError("inner"), 3),
            ToRaise(ValueError("inner")),
        ]
        for results in (
            pool.map(tasks.identity, values),
            pool.map(tasks.identity, values, 1, on_error="return"),
            list(pool.imap(tasks.identity, values, 2)),
            [pool.apply(tasks.identity, (value,)) for value in values],
            [pool.submit(tasks.identity, value).result(30) for value in values],
        ):
            assert repr(results) == repr(values)

    def test_an_argument_that_cannot_be_pickled_is_refused_in_the_caller(self, pool: Pool) -> None:
        """At once, naming it; the pool stays usable."""
        self.needs_pickling()
        lock = threading.Lock()
        calls: list[Callable[[], Any]] = [
            lambda: pool.map(tasks.identity, [1, lock]),
            lambda: list(pool.imap(tasks.identity, [lock])),
            lambda: pool.apply(tasks.identity, (lock,)),
            lambda: pool.apply_async(tasks.identity, (), {"value": lock}).get(30),
            lambda: pool.map_async(tasks.identity, [lock]).get(30),
            lambda: pool.submit(tasks.identity, lock).result(30),
        ]
        for call in calls:
            with pytest.raises(SerializationError, match="lock"):
                call()

        assert pool.map(tasks.square, [3]) == [9]

    def test_a_function_that_cannot_be_pickled_is_refused_in_the_caller(self, pool: Pool) -> None:
        """At once, naming it."""
        self.needs_pickling()
        lock = threading.Lock()

        with pytest.raises(SerializationError, match="needle"):

            def needle(_: int) -> bool:
                return lock.locked()

            pool.map(needle, [1, 2])
        with pytest.raises(SerializationError, match="lock"):
            pool.apply(lock.acquire)
        assert pool.map(tasks.square, [3]) == [9]

    @pytest.mark.parametrize("way", ["raise", "sys.exit"])
    def test_what_an_argument_raises_in_pickling_can_still_be_caught(self, pool: Pool, way: str) -> None:
        """``multiprocessing.Pool`` lets it through as it is; programs catch it by its type."""
        self.needs_pickling()
        kinds = (SerializationError, Misbehaved) if way == "raise" else (SerializationError,)
        for kind in kinds:
            with pytest.raises(kind):
                pool.map(tasks.identity, [1, tasks.BadlyPickled(way), 3], 1)

        assert pool.map(tasks.square, [3]) == [9]

    def test_a_result_that_cannot_be_pickled_fails_its_task(self, pool: Pool) -> None:
        """And only that one, in whatever chunk it stands."""
        self.needs_pickling()
        for chunksize in (1, 5, None):
            results: list[Any] = pool.map(
                lambda number: threading.Lock() if number == 2 else number,
                range(5),
                chunksize,
                on_error="return",
            )
            assert [results[0], results[1], results[3], results[4]] == [0, 1, 3, 4]
            assert isinstance(results[2].error, SerializationError)
            assert "lock" in str(results[2].error)
        with pytest.raises(SerializationError):
            pool.apply(tasks.return_lock)

    def test_in_shared_memory_nothing_needs_to_be_pickled(self, pool: Pool) -> None:
        """Locks and open files may go to a thread, and come back as the same object."""
        if self.processes:
            pytest.skip("workers are processes")
        lock = threading.Lock()

        assert pool.map(tasks.identity, [lock])[0] is lock
        assert pool.apply(tasks.identity, (lock,)) is lock

    def test_chunks_are_values_too(self, pool: Pool) -> None:
        """A task that returns the kit's own messages, nested in others, gets them back."""
        value = {"chunk": Refused(1), "list": [Packed(b"e"), Chunk]}

        assert pool.apply(tasks.identity, (value,)) == value
