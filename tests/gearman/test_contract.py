"""A cluster keeps the contract: over gearmand, and, in short, over gear's server and other local pools."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest

from pools_core import MakePool, Pool
from pools_core.testing import PoolContract


@pytest.fixture(scope="module")
def standing(make_cluster, tmp_path_factory):
    """Return clusters of one server and one node that stand until the last test of this file."""
    with contextlib.ExitStack() as stack:
        made: dict[Any, Any] = {}

        def stand(kind: str, *options: str) -> Any:
            if (kind, options) not in made:
                folder = tmp_path_factory.mktemp(kind)
                made[kind, options] = stack.enter_context(make_cluster(folder, kind=kind))
                made[kind, options].start_node(*options)
            return made[kind, options]

        yield stand


class TestGearmand(PoolContract):
    """One gearmand, one node of two processes."""

    processes = True
    capabilities = frozenset({"task_timeout"})
    node: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture(autouse=True)
    def _cluster(self, server_kind, standing):
        self.cluster = standing(server_kind, *self.node)

    def make_pool(self, **options: Any) -> Pool:
        return MakePool("gearman", self.cluster.config, **options)
