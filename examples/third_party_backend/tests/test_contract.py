"""The contract of every pool, on this backend."""

from typing import Any

from pools_core import MakePool, Pool
from pools_core.testing import PoolContract


class TestSubprocessPool(PoolContract):
    """All promises that do not need ``task_timeout``, which this backend does not offer."""

    processes = True
    capabilities = frozenset({"order_tasks"})

    def make_pool(self, **options: Any) -> Pool:
        """Return a pool of two workers, by name, as a user would."""
        return MakePool("subprocess", n_jobs=2, **options)
