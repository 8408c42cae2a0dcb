"""The pool of the singlecore backend."""

from __future__ import annotations

from typing import Any

from pools_core.config import settings
from pools_core.pool import Pool
from pools_singlecore.engine import SinglecoreEngine
from pools_singlecore.settings import SinglecoreSettings

__all__ = ["SinglecorePool"]


class SinglecorePool(Pool):
    """A pool that runs tasks in the caller's thread; see ``pools_core.Pool``.

    Args:
        n_jobs: 1 or None.
        options: those of every pool, see ``pools_core.PoolSettings``; and ``processes``, another name of
            ``n_jobs``.

    Raises:
        UnsupportedOptionError: ``n_jobs`` greater than 1, or an option that only other backends have.
        TypeError, ValueError: an option that no backend has, or that has a bad value.
    """

    def __init__(self, n_jobs: int | None = None, **options: Any) -> None:
        chosen = settings(SinglecoreSettings, "singlecore", {}, {"n_jobs": n_jobs, **options})
        super().__init__(SinglecoreEngine, "singlecore", chosen)
