"""Threads keep the contract."""

from __future__ import annotations

from typing import Any

from pools_core import MakePool, Pool
from pools_core.testing import PoolContract


class TestThreads(PoolContract):
    capabilities = frozenset({"order_tasks"})

    def make_pool(self, **options: Any) -> Pool:
        return MakePool("threads", **{"n_jobs": 2, **options})
