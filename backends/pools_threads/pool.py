"""The pool of the threads backend."""

from __future__ import annotations

import functools
from typing import Any

from pools_core.config import settings
from pools_core.pool import Pool
from pools_threads.engine import ThreadsEngine
from pools_threads.settings import ThreadsSettings

__all__ = ["ThreadPool"]


class ThreadPool(Pool):
    """A pool of threads in this process; see ``pools_core.Pool``.

    Args:
        n_jobs: how many threads, at least 1; default the CPUs that this process may use.
        options: those of every pool, see ``pools_core.PoolSettings``; and ``processes``, another name of
            ``n_jobs``.

    Raises:
        UnsupportedOptionError: an option that only other backends have.
        TypeError, ValueError: an option that no backend has, or that has a bad value.
    """

    def __init__(self, n_jobs: int | None = None, **options: Any) -> None:
        chosen = settings(ThreadsSettings, "threads", {}, {"n_jobs": n_jobs, **options})
        super().__init__(functools.partial(ThreadsEngine, chosen.n_jobs), "threads", chosen)
