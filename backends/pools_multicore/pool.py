"""The pool of the multicore backend."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

from pools_core.config import settings
from pools_core.pool import Pool
from pools_multicore.engine import MulticoreEngine
from pools_multicore.settings import MulticoreSettings, StartMethod

__all__ = ["MulticorePool", "pool_with"]


class MulticorePool(Pool):
    """A pool of worker processes on this machine; see ``pools_core.Pool``.

    Args:
        n_jobs: how many workers, at least 1; default the CPUs that this process may use.
        start_method: ``"fork"``, ``"forkserver"`` or ``"spawn"``; default fork where that is safe
            (Linux, and no other thread in the caller), else forkserver.
        daemon: whether workers are forbidden to have children of their own (the default); False allows
            nested pools.
        cpu_ids: the CPUs that workers are pinned to: one id per worker, ``[[...]]`` for one list that
            holds for all, or a list per worker.
        max_worker_memory: bytes of resident memory, or text such as ``"2GB"``; a worker that has more
            after a task is replaced.
        blas_threads: threads that numerical libraries may use in each worker; by default the CPUs that
            this process may use are shared out, unless the environment says otherwise; None: as many as
            they choose themselves.
        options: those of every pool, see ``pools_core.PoolSettings``; and ``processes``, another name of
            ``n_jobs``.

    Raises:
        UnsupportedOptionError: an option that only other backends have.
        TypeError, ValueError: an option that no backend has, or that has a bad value.
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        *,
        start_method: StartMethod | None = None,
        daemon: bool | None = None,
        cpu_ids: Sequence[int | Sequence[int]] | None = None,
        max_worker_memory: int | str | None = None,
        blas_threads: int | Literal["auto"] | None = "auto",
        **options: Any,
    ) -> None:
        given = {
            "n_jobs": n_jobs,
            "start_method": start_method,
            "daemon": daemon,
            "cpu_ids": cpu_ids,
            "max_worker_memory": max_worker_memory,
            "blas_threads": blas_threads,
            **options,
        }
        chosen = settings(MulticoreSettings, "multicore", {}, given)
        super().__init__(functools.partial(MulticoreEngine, chosen), "multicore", chosen)


def pool_with(chosen: MulticoreSettings) -> MulticorePool:
    """Return a new pool with settings that have been read and checked, which takes a while to do twice."""
    pool = MulticorePool.__new__(MulticorePool)
    Pool.__init__(pool, functools.partial(MulticoreEngine, chosen), "multicore", chosen)
    return pool
