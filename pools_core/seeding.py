"""A random stream for each task, the same on every backend.

A stream depends on the call's ``seed`` and on the task's index, and on nothing else: not on the
worker, the chunk or the backend.  It is derived with BLAKE2b (RFC 7693), keyed by neither, so that
neighbouring seeds and indices give unrelated streams.  Global generators are left alone: threads
share them.
"""

from __future__ import annotations

import threading

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from typing import Any, Final

__all__ = ["task_rng", "task_seed"]

SEED_BYTES: Final = 16
"""128 bits: what ``numpy.random.SeedSequence`` takes from entropy by default."""


class _Current(threading.local):
    """Which task this thread is running: set once per chunk, its index read only when asked for."""

    def __init__(self) -> None:
        self.task: TaskIndex | None = None
        self.worker: int | None = None
        """Number of the worker whose task it is."""
        self.rng: tuple[TaskIndex, int, random.Random] | None = None


class TaskIndex:
    """Where a thread that runs a chunk stands.

    Args:
        seed: the call's seed, or None.
        start: index of the chunk's first task.
        values: the results of the chunk's tasks so far: as many as have been run.
    """

    __slots__ = ("seed", "start", "values")

    def __init__(self, seed: int | None, start: int, values: Sequence[Any]) -> None:
        self.seed = seed
        self.start = start
        self.values = values

    @property
    def index(self) -> int:
        """Index of the running task in its call's input."""
        return self.start + len(self.values)


Board = memoryview | list[int]
current: Final = _Current()


def task_seed() -> int:
    """Return a seed for the running task, an int of 128 bits.

    For generators such as ``numpy.random.default_rng(task_seed())``.  The same within one task however
    often it is asked; without a ``seed`` in the call it comes from the operating system, and differs
    each time.

    Raises:
        RuntimeError: no task is running in this thread.
    """
    task = _task()
    if task.seed is None:
        import random

        return random.SystemRandom().getrandbits(8 * SEED_BYTES)
    return derive(task.seed, task.index)


def task_rng() -> random.Random:
    """Return the running task's own ``random.Random``; within one task always the same object.

    Raises:
        RuntimeError: no task is running in this thread.
    """
    task = _task()
    import random  # like hashlib below: most workers never need it

    kept = current.rng
    index = task.index
    if kept is None or kept[0] is not task or kept[1] != index:
        kept = current.rng = (task, index, random.Random(task_seed()))
    return kept[2]


def derive(seed: int, index: int) -> int:
    """Return the seed of task ``index`` of a call with that ``seed``: 128 bits of BLAKE2b."""
    import hashlib

    digest = hashlib.blake2b(f"{seed},{index}".encode(), digest_size=SEED_BYTES, person=b"pools-task-seed")
    return int.from_bytes(digest.digest(), "little")


def _task() -> TaskIndex:
    task = current.task
    if task is None:
        raise RuntimeError("task_rng() and task_seed() are for use inside a task, and none is running here")
    return task
