"""What a library is to the suite: how its pool starts and stops, and how it does each kind of call.

Each library is used as its own documentation advises for the case.  Imports happen in ``start``, in the
measured process only, so that no library pays for another's.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

__all__ = ["Items", "Library", "Results", "SharedTask", "Task"]

Task = Callable[[Any], Any]
SharedTask = Callable[[Any, Any], Any]
Items = Iterable[Any]
Results = Iterable[Any]


class Library:
    """A library that offers pools of processes; subclasses override the calls that they have.

    Attributes:
        name: what ``--lib`` calls it.
        distribution: what pip calls it; None for Python itself.
        optional: nobody is told when it is not installed.
        start_methods: ways of starting workers that it has; None is its own default.
        uneven_chunks: chunk sizes for uneven tasks, one after the other from round to round, so that the best
            of them counts; None leaves it to the library.
        large_chunk: chunk size for long tasks and large items.
        bulk_chunk: chunk size for millions of tasks that take no time.
    """

    name: ClassVar[str]
    distribution: ClassVar[str | None] = None
    optional: ClassVar[bool] = False
    start_methods: ClassVar[frozenset[str | None]] = frozenset({None, "fork", "forkserver", "spawn"})
    uneven_chunks: ClassVar[tuple[int | None, ...]] = (1, 4, 8, None)
    large_chunk: ClassVar[int | None] = 1
    bulk_chunk: ClassVar[int | None] = 1000

    def __init__(self, workers: int, turn: int = 0) -> None:
        """Remember how many workers the pool shall have, and which round this is, from 0."""
        self.workers = workers
        self.turn = turn
        self.pool: Any = None

    @classmethod
    def version(cls) -> str | None:
        """Return the installed version; None if it is not installed."""
        if cls.distribution is None:
            return "Python " + sys.version.split()[0]
        try:
            return importlib.metadata.version(cls.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    @classmethod
    def can(cls, call: str, start_method: str | None) -> bool:
        """Whether it has this call and this way of starting workers."""
        return getattr(cls, call) is not getattr(Library, call) and start_method in cls.start_methods

    @property
    def uneven_chunk(self) -> int | None:
        """Chunk size for uneven tasks in this round."""
        return self.uneven_chunks[self.turn % len(self.uneven_chunks)]

    def chunk_size(self, items: Sequence[Any]) -> int:
        """Return what multiprocessing.Pool chooses by itself; for those that leave it to the user."""
        return max(1, -(-len(items) // (4 * self.workers)))

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        """Make the pool; its workers get the shared object, if there is one."""
        raise NotImplementedError

    def stop(self) -> None:
        """Close the pool and wait for its workers to end."""
        raise NotImplementedError

    def apply(self, func: Task, item: Any) -> Any:
        """Run one task and wait for it."""
        raise NotImplementedError

    def submit(self, func: Task, items: Items) -> Results:
        """Hand all tasks in, one by one, and then take all results."""
        raise NotImplementedError

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        """Run all tasks; the results in order, all at once."""
        raise NotImplementedError

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        """Run all tasks; yield the results in order, as they come."""
        raise NotImplementedError

    def imap_unordered(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        """Run all tasks; yield the results as they come."""
        raise NotImplementedError

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        """Run all tasks with the shared object as first argument; the results in order."""
        raise NotImplementedError

    def worker_pool(self) -> Any:
        """Return its class that has the interface of ``mpire.WorkerPool``."""
        raise NotImplementedError
