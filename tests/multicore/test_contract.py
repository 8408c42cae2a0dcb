"""Processes keep the contract, under each way to start them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from pools_core import MakePool, Pool
from pools_core.testing import PoolContract


class OnProcesses(PoolContract):
    processes = True
    capabilities = frozenset({"order_tasks", "task_timeout"})
    start_method: ClassVar[str]

    def make_pool(self, **options: Any) -> Pool:
        return MakePool("multicore", **{"n_jobs": 2, "start_method": self.start_method, **options})


# The gate of the kit is a thread of the test's, and forking beside threads is what fork users do.
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")
class TestFork(OnProcesses):
    start_method = "fork"


class TestForkserver(OnProcesses):
    start_method = "forkserver"


class TestSpawn(OnProcesses):
    start_method = "spawn"
