"""How many tasks the next chunk takes.

Decisions only: values in, a number out.  The size follows the measured time per task, so that a chunk is a
few milliseconds of work: long enough that sending it costs little beside, short enough that workers end
together.  While nothing is measured it is one task; or a guess, where workers can give back what proves slow.

With a ``chunk_size`` that the user chose, what goes to a worker at once is a whole number of these: one,
until they prove to be much shorter than that.  All the same no task waits behind a slow one of another chunk,
since the worker gives back what is behind it.
"""

from __future__ import annotations

import math
import sys
from typing import Final

from pools_core.options import CallSettings

__all__ = ["Chunker"]

TARGET: Final = 0.004
"""Seconds of work in a chunk: some forty round trips through a socket, each about 0.1 ms."""

GROWTH: Final = 16
"""The most by which a chunk exceeds the last one: a first measurement may be of an untypical task."""

GUESS: Final = 32
"""Tasks of a chunk while nothing is known of them, where that does no harm: they are small, and workers give
back what is behind a slow one."""

LARGEST: Final = 16_384
"""Tasks; beyond this the cost per chunk has vanished, and items in flight only take memory."""

ENDING: Final = 2
"""Chunks per worker that the rest of a known input is cut into at the least, so that all end together."""

FINEST: Final = 0.0005
"""Seconds of work below which the rest is not cut up any finer: the messages would cost more than the idle
time that they save."""

ITSELF: Final = 2e-6
"""Seconds that a chunk takes in its worker beside its tasks; with tasks as short as this, what is measured of
the first ones is mostly that."""

NOTED: Final = 0.7e-6
"""Seconds that a worker takes to keep a task's result in its ledger, as in a chunk of units; measured."""

BYTES: Final = 1 << 20
"""Size of a chunk's items from which it does not grow; memory in flight is a few of these per worker."""


class Chunker:
    """Chooses the sizes of the chunks of one call.

    Args:
        settings: the call's ``chunk_size``, ``n_splits`` and ``max_tasks_active`` are used.
        length: number of tasks, None if unknown.
        joins: whether several chunks of a chosen size may go together.
    """

    def __init__(self, settings: CallSettings, length: int | None, joins: bool = False) -> None:
        self._fixed = settings.chunk_size
        whole = self._fixed is not None and self._fixed == int(self._fixed)
        self.unit = int(self._fixed or 1) if joins and whole else None
        """Tasks of a chosen size, of which several chunks may go together; None: they may not."""
        if self._fixed is None and settings.n_splits is not None and length:
            self._fixed = max(1.0, length / settings.n_splits)
        self._length = length
        self._carried = 0.0
        self._most = settings.max_tasks_active or (LARGEST if self._fixed is None else sys.maxsize)
        self._guess = GUESS if joins and self._fixed is None else 1
        self._last = self._guess
        self._proven = 1  # the most tasks that have been measured together
        self._tasks = 0.0
        self._seconds = 0.0
        self._bytes_per_task = 0.0
        self._expects = False
        self._whole_tasks = 0
        self._whole_seconds = 0.0

    @property
    def fixed(self) -> bool:
        """Whether the user chose the size."""
        return self._fixed is not None

    @property
    def chosen(self) -> int:
        """The size that the user chose, the larger of its two neighbours; or 1."""
        return 1 if self._fixed is None else math.ceil(self._fixed)

    @property
    def last(self) -> int:
        """Size of the chunk before, or 1; of a size that the user chose, at least that."""
        return max(self._last, self.chosen)

    @property
    def worth(self) -> int:
        """How many tasks make a chunk, as far as is known; 1 while nothing is."""
        return self._tasks_of(TARGET)

    @property
    def guesses(self) -> bool:
        """Whether the next chunk has several tasks though nothing is known of them: each is a unit then."""
        return self._guess > 1 and not self._tasks

    @property
    def expects(self) -> bool:
        """Whether sizes rest on what was said before anything was measured."""
        return self._expects

    @property
    def measured(self) -> float | None:
        """Seconds that a task took in the whole call so far; None while nothing is measured."""
        return self._whole_seconds / self._whole_tasks if self._whole_tasks else None

    def expect(self, seconds: float) -> None:
        """Begin as if tasks were known to take so many seconds; a first measurement outweighs it."""
        self._tasks, self._seconds = 1.0, seconds
        self._last = LARGEST
        self._expects = True

    def guess_nothing(self) -> None:
        """Begin with single tasks."""
        self._guess = self._last = 1
        if self._expects:
            self._tasks = self._seconds = 0.0
            self._expects = False

    def _tasks_of(self, seconds: float) -> int:
        """Return how many tasks take so long, as far as is known; at least 1."""
        if not self._tasks:
            return self._guess
        per_task = self._seconds / self._tasks
        return LARGEST if per_task * LARGEST <= seconds else max(1, int(seconds / per_task))

    def slow_down(self) -> None:
        """Begin anew with small chunks: a task was slow that was not expected to be."""
        self.guess_nothing()
        self._proven = 1

    def learn(self, tasks: int, seconds: float, guessed: bool = False) -> None:
        """Take note that so many tasks took a worker so long, perhaps in a chunk of a guessed size.

        Older measurements count half as much with each chunk's worth of newer ones, so that the size
        follows an input that gets heavier as it goes.
        """
        if tasks:
            self._expects = False
            self._proven = max(self._proven, tasks)
            self._tasks = self._tasks / 2 + tasks
            beside = ITSELF + tasks * NOTED if guessed else ITSELF
            net = max(seconds - beside, seconds / 4)
            self._seconds = self._seconds / 2 + net
            self._whole_tasks += tasks
            self._whole_seconds += net

    def learn_bytes(self, tasks: int, nbytes: int) -> None:
        """Take note of the size of a chunk's packed items."""
        self._bytes_per_task = nbytes / tasks

    def next_size(self, remaining: int | None, workers: int, room: int = sys.maxsize) -> int:
        """Return the size of the next chunk, at least 1.

        Args:
            remaining: tasks that are left in the input, None if unknown.
            workers: how many can run at once.
            room: the most tasks that there is room for, at least 1.
        """
        if self.unit is not None:
            size = min(self._by_time(remaining, workers), room)
            return min(max(self.unit, size - size % self.unit), self._most, room)
        if self._fixed is not None:
            # A fraction is carried forward: 2.5 gives 3, 2, 3, 2.
            wanted = self._fixed + self._carried
            size = max(1, math.ceil(wanted - 1e-9))
            self._carried = wanted - size
            return min(size, self._most, room)
        return min(self._by_time(remaining, workers), room)

    def _by_time(self, remaining: int | None, workers: int) -> int:
        size = min(self.worth, self._last * GROWTH, self._most)
        if self._bytes_per_task * size > BYTES:
            size = int(BYTES / self._bytes_per_task)
        if remaining is None and self._expects:
            size = min(size, self._tasks_of(FINEST))  # it may be all that there is, and is to be shared
        if remaining is not None:
            share = math.ceil(remaining / (ENDING * workers))
            if self._tasks:
                even = math.ceil((self._length or remaining) / workers)
                share = max(share, min(self._tasks_of(FINEST), max(self._proven, even)))
            size = min(size, share)
        self._last = max(1, size)
        return self._last
